# SPDX-License-Identifier: Apache-2.0
"""Standard library modules that an extension's own sources may import.

They compute, or wrap system calls that the sandbox decides about. Left out are modules that act
when imported (antigravity, this, site), that install or run other code (runpy, ensurepip, venv,
lib2to3, the tests of Python), and those for a desktop, a terminal or a mail server. The imports of
a package that the manifest names are not checked: it runs in the same unprivileged process.
"""

__all__ = ["ALLOWED_STANDARD"]

ALLOWED_STANDARD = frozenset([
    "__future__", "_thread", "abc", "argparse", "array", "ast", "asyncio", "atexit", "base64",
    "bdb", "binascii", "bisect", "builtins", "bz2", "cProfile", "calendar", "cmath", "cmd",
    "code", "codecs", "codeop", "collections", "colorsys", "concurrent", "configparser",
    "contextlib", "contextvars", "copy", "copyreg", "csv", "ctypes", "dataclasses",
    "datetime", "decimal", "difflib", "dis", "doctest", "email", "encodings", "enum", "errno",
    "faulthandler", "fcntl", "filecmp", "fileinput", "fnmatch", "fractions", "functools",
    "gc", "genericpath", "getopt", "getpass", "gettext", "glob", "graphlib", "grp", "gzip",
    "hashlib", "heapq", "hmac", "html", "http", "importlib", "inspect", "io", "ipaddress",
    "itertools", "json", "keyword", "linecache", "locale", "logging", "lzma", "marshal",
    "math", "mimetypes", "mmap", "multiprocessing", "ntpath", "numbers", "opcode", "operator",
    "optparse", "os", "pathlib", "pickle", "pickletools", "pkgutil", "platform", "plistlib",
    "posix", "posixpath", "pprint", "profile", "pstats", "pwd", "pyclbr", "pyexpat", "queue",
    "quopri", "random", "re", "reprlib", "resource", "sched", "secrets", "select",
    "selectors", "shelve", "shlex", "shutil", "signal", "socket", "sqlite3", "sre_compile",
    "sre_constants", "sre_parse", "ssl", "stat", "statistics", "string", "stringprep",
    "struct", "subprocess", "symtable", "sys", "sysconfig", "tarfile", "tempfile", "textwrap",
    "threading", "time", "timeit", "token", "tokenize", "tomllib", "trace", "traceback",
    "tracemalloc", "types", "typing", "unicodedata", "unittest", "urllib", "uuid", "warnings",
    "wave", "weakref", "xml", "zipfile", "zipimport", "zlib", "zoneinfo",
])  # fmt: skip
"""Their top-level names."""
