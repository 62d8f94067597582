"""kohya-ss sd-scripts as host: the only room that imports its `library`."""
