# Quantization-aware training at W4A4. MMEngine lets no two bases set the same key, so that these settings have names
# of their own; a config takes them out (`_base_.pop`) and puts them where they belong, see README.md.
quantized_model = dict(type='mmacs.QuantizedModel', recipe=dict(preset='w4a4'))
coreset_sampler = dict(_delete_=True, type='mmacs.CoresetSampler', fraction=1.0)
quantization_hook = dict(type='mmacs.QuantizationHook')
# Step sizes are not weights: they get no weight decay.
quantization_constructor = 'mmacs.QuantizationOptimWrapperConstructor'
