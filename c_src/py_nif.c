/* The NIF table and load. Everything else is in the file of its concept. */
#include "common.h"

#include "async_thread.h"
#include "atoms.h"
#include "callback.h"
#include "channel.h"
#include "context.h"
#include "far.h"
#include "info.h"
#include "isolated.h"
#include "program.h"
#include "poller_beam.h"
#include "poller_nif.h"
#include "request.h"
#include "runtime.h"
#include "stream.h"
#include "trace.h"
#include "types.h"

static ErlNifFunc functions[] = {
    {"runtime_start", 2, runtime_start_nif, 0},
    {"runtime_flush", 2, runtime_flush_nif, 0},
    {"program_run", 0, program_run_nif, 0},
    {"interpreter_start", 2, interpreter_start_nif, 0},
    {"interpreter_ask", 3, interpreter_ask_nif, 0},
    {"ref_context", 1, ref_context_nif, 0},
    {"far_new", 2, far_new_nif, 0},
    {"far_id", 1, far_id_nif, 0},
    {"ref_counts", 0, ref_counts_nif, 0},
    {"context_new", 6, context_new_nif, 0},
    {"context_close", 1, context_close_nif, 0},
    {"context_interrupt", 1, context_interrupt_nif, 0},
    {"context_info", 1, context_info_nif, 0},
    {"submit", 9, submit_nif, 0},
    {"submit_nested", 10, submit_nested_nif, 0},
    {"loop_start", 1, loop_start_nif, 0},
    {"loop_stop", 3, loop_stop_nif, 0},
    {"stream_start", 9, stream_start_nif, 0},
    {"stream_ack", 2, stream_ack_nif, 0},
    {"stream_cancel", 1, stream_cancel_nif, 0},
    {"events_attach", 1, events_attach_nif, 0},
    {"events_post", 2, events_post_nif, 0},
    {"beam_arm", 1, beam_arm_nif, 0},
    {"cancel", 2, cancel_nif, 0},
    {"look", 1, look_nif, 0},
    {"callback_server", 2, callback_server_nif, 0},
    {"callback_begin", 2, callback_begin_nif, 0},
    {"callback_reply", 2, callback_reply_nif, 0},
    {"callback_down", 2, callback_down_nif, 0},
    {"callback_names", 1, callback_names_nif, 0},
    {"channel_new", 2, channel_new_nif, 0},
    {"channel_send", 3, channel_send_nif, 0},
    {"channel_recv", 3, channel_recv_nif, 0},
    {"channel_forget", 2, channel_forget_nif, 0},
    {"channel_close", 1, channel_close_nif, 0},
    {"channel_info", 1, channel_info_nif, 0},
    {"timing", 1, timing_nif, 0},
    {"counters", 0, counters_nif, 0},
    {"atom_quota", 1, atom_quota_nif, 0},
    {"grace", 1, grace_nif, 0},
    {"python_version", 0, python_version_nif, 0},
    {"build_python", 0, build_python_nif, 0},
};

static int load(ErlNifEnv *env, void **priv_data, ERL_NIF_TERM info)
{
    (void)priv_data;
    (void)info;
    py_program_wait_for_setup();
    py_atoms_init(env);
    if (py_request_table_init() < 0 || py_context_load(env) < 0 || py_isolated_load(env) < 0 ||
        py_types_load(env) < 0 || py_callback_load(env) < 0 || py_channel_load(env) < 0 || py_stream_load(env) < 0 ||
        py_far_load(env) < 0 || py_poller_nif_load(env) < 0 || py_beam_load(env) < 0 || py_runtime_load(env) < 0) {
        return -1;
    }
    return 0;
}

ERL_NIF_INIT(py_nif, functions, load, NULL, NULL, NULL)
