//! Scenarios: each module is a promise to users, shown on real TLS and real sockets with a fresh authority.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "in a test a panic is the report")]

mod caller;
mod client;
mod endpoint;
mod frames;
mod lab;
mod pki;
mod process;
mod strict;
mod upstream;

mod a_lost_state_is_refused;
mod administrators_decide;
mod administrators_take_administrators;
mod an_incident_is_handled;
mod answers_come_as_they_are;
mod answers_have_one_reading;
mod attackers_get_nowhere;
mod authorities_are_their_keys;
mod bad_calls_are_refused;
mod break_glass;
mod bystanders_go_on;
mod certificates_are_read_strictly;
mod certificates_are_remembered;
mod checks_agree_with_the_gate;
mod claims_are_bound;
mod clients_do_not_fill_the_log;
mod descriptors_run_out;
mod disk_full_is_said;
mod events_arrive_one_by_one;
mod expiry_ends_sessions;
mod feeds_reconcile;
mod floods_are_cut;
mod frames_have_a_budget;
mod framing_is_unambiguous;
mod handshakes_are_robust;
mod identity_headers_are_the_gates;
mod killed_while_it_decides;
mod large_streams_stay_small;
mod levels_hit_their_own;
mod limits_hold;
mod loops_are_broken;
mod many_decide_at_once;
mod messages_pass_unchanged;
mod nobody_is_locked_out;
mod operators_see;
mod refusals_speak_dialects;
mod refuses_to_start;
mod registries_are_polled;
mod reinstatements_let_in;
mod requests_are_logged;
#[cfg(feature = "otel")]
mod requests_are_traced;
mod requests_have_one_reading;
mod restarts_lose_nobody;
mod resumption_is_checked;
mod revoke_mid_request_body;
mod revoke_mid_response_body;
mod revoke_open_streams;
mod revoke_over_shared_upstreams;
mod revoke_websocket;
mod revoke_while_idle;
mod revoked_administrators_are_out;
mod revoked_uploads_never_look_whole;
mod roles_decide;
mod routes_have_modes;
mod routes_lead_by_host_and_path;
mod runs_and_drains;
mod sessions_say_whose_they_are;
mod slow_clients_are_cut;
mod stale_feeds_refuse;
mod strangers_are_cheap;
mod strangers_are_let_in;
mod strangers_keep_nobody_out;
mod targets_are_known_or_not;
mod the_api_answers;
mod threads_share_the_load;
mod unsigned_messages_lock_nobody_out;
mod upstream_connections_are_kept;
mod upstreams_are_secured;
mod upstreams_share_the_load;
mod waiting_has_an_end;
mod websockets_pass;

#[path = "../lists_feed/server.rs"]
#[expect(dead_code, reason = "few kinds of answers are needed here")]
mod scripted;
#[path = "../token_list/forge.rs"]
mod tokens;
