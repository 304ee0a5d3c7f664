/* What an operator may ask. Any thread; nothing here attaches. */
#ifndef ERLANG_PYTHON_INFO_H
#define ERLANG_PYTHON_INFO_H

#include "common.h"

/* context_info(Context) -> #{id, queued, workers, max_threads, lost_workers, calls, closed, running := [{M, F, Caller,
 * AgeUs}]} */
PY_NIF(context_info_nif);
/* counters() -> #{requests, refs, contexts} that are alive now. */
PY_NIF(counters_nif);
PY_NIF(atom_quota_nif);
PY_NIF(grace_nif);
/* python_version() -> binary, of the headers the NIF was built with. */
PY_NIF(python_version_nif);
/* build_python() -> binary, the path of the Python it was built with. */
PY_NIF(build_python_nif);

#endif
