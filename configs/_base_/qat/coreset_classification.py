# The adaptive coreset of classifiers, by the default policy, preset='mmacs'. Others are told by their names,
# also on the command line: --cfg-options default_hooks.coreset.preset=rs2
coreset_hook = dict(type='mmacs.CoresetHook', scorer=dict(type='mmacs.ClassificationScorer'))
