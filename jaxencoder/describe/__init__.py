"""Descriptions of models that need no computation: the families, the inspection of a model or a recipe, its costs."""
