"""Says whether the running Python can be embedded: prints shell variables, or one reason on standard error and exit 1."""

import os
import shlex
import sys
import sysconfig


def main():
    get = sysconfig.get_config_var
    where = "%s (%s)" % (sys.executable, sys.version.split()[0])
    if sys.implementation.name != "cpython" or sys.version_info < (3, 12):
        sys.exit("%s: CPython 3.12 or newer is needed" % where)
    if get("Py_GIL_DISABLED") and not os.environ.get("PYTHON"):
        sys.exit("%s: a free-threaded build is taken only when PYTHON= names it" % where)
    framework = get("PYTHONFRAMEWORK")
    if not get("Py_ENABLE_SHARED") and not framework:
        sys.exit("%s: built without a shared libpython (--enable-shared)" % where)
    include = sysconfig.get_path("include")
    if not os.path.exists(os.path.join(include, "Python.h")):
        sys.exit("%s: no Python.h in %s (on Debian: apt-get install python%d.%d-dev)" % ((where, include) + sys.version_info[:2]))
    if framework:
        libraries = [os.path.join(get("PYTHONFRAMEWORKPREFIX") or "/", get("LDLIBRARY"))]
    else:
        folders = [get("LIBDIR"), get("LIBPL"), os.path.join(sys.base_prefix, "lib")]
        folders.append(os.path.join(get("LIBDIR") or "/usr/lib", get("MULTIARCH") or ""))
        names = [get("LDLIBRARY"), get("INSTSONAME")]
        libraries = [os.path.join(d, n) for d in folders if d for n in names if n and not n.endswith(".a")]
    library = next((path for path in libraries if os.path.exists(path)), None)
    if library is None:
        sys.exit("%s: no shared libpython among %s" % (where, ", ".join(libraries)))
    tag = "%d.%d%s" % (sys.version_info[0], sys.version_info[1], "t" if get("Py_GIL_DISABLED") else "")
    executable = getattr(sys, "_base_executable", sys.executable) or sys.executable
    for name, value in (
        ("PY_EXECUTABLE", executable),
        ("PY_VERSION", sys.version.split()[0]),
        ("PY_TAG", tag),
        ("PY_INCLUDE", include),
        ("PY_LIBRARY", library),
    ):
        print("%s=%s" % (name, shlex.quote(value)))


main()
