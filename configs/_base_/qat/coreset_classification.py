# The adaptive coreset of classifiers, the same share of each class: a round every five epochs.
coreset_hook = dict(
    type='mmacs.CoresetHook',
    scorer=dict(type='mmacs.ClassificationScorer'),
    importance=dict(beta='cosine'),
    selector=dict(type='mmacs.ClassBalanced'),
    schedule=dict(interval=5),
)
