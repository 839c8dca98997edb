# The adaptive coreset of one-stage detectors: a round every three epochs.
coreset_hook = dict(
    type='mmacs.CoresetHook',
    scorer=dict(type='mmacs.DenseDetectionScorer'),
    importance=dict(beta='cosine'),
    schedule=dict(interval=3),
)
