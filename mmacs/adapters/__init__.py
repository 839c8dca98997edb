"""All that is known of the libraries that models come from, a module or package for each.

:func:`mmacs.utils.libraries.load_adapters` imports those of the libraries that a model is made of, by these names;
they register what they know.
"""
