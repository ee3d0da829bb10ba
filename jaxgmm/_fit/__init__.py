"""Many lanes to the best one, many models to the best one."""
