"""Members of an ensemble that train in one process, their steps computed in one."""
