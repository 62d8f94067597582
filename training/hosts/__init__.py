"""Who loads base models and makes optimizers: sd-scripts, or diffusers alone."""
