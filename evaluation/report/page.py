from __future__ import annotations
def write_page(path, content, train, test, synthetic):
    return path
