# The adaptive coreset of classifiers, by the default policy, preset='mmacs'; another one by its name, also on the command
# line: --cfg-options default_hooks.coreset.preset=rs2
coreset_hook = dict(type='mmacs.CoresetHook', scorer=dict(type='mmacs.ClassificationScorer'))
