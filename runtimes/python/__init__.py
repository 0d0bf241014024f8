"""What runs inside a Python sandbox. Imported there as the private package ``_faas_runtime``: see ``zygote``."""
