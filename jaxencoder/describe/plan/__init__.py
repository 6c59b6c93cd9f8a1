"""What a recipe will need on devices that are not attached: memory, time and cost, by their real compiler."""
