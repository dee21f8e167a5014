from .atomic import atomic_open, atomic_write_bytes, atomic_write_text, remove_abandoned

__all__ = ['atomic_open', 'atomic_write_bytes', 'atomic_write_text', 'remove_abandoned']
