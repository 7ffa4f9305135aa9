"""What every request passes: drain, keys, CORS, errors."""
