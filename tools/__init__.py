"""Scripts of their own, and dask_cluster, which pong_pg.py imports for --cluster."""
