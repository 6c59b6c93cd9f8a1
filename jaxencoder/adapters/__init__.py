"""Small parameters beside those of a model that stays as it is: merged into it, before it computes."""
