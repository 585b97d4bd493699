/* Preloaded into wrk and h2load, which cannot present a client certificate: every TLS context that they make gets
   the chain and key of the files named by BENCH_CERT and BENCH_KEY, and, unless BENCH_RESUME is set, no connection
   may reuse the session of an earlier one, so that each handshake is a full one. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

void *SSL_CTX_new(const void *method)
{
	void *(*make)(const void *) = dlsym(RTLD_NEXT, "SSL_CTX_new");
	int (*use_chain)(void *, const char *) = dlsym(RTLD_DEFAULT, "SSL_CTX_use_certificate_chain_file");
	int (*use_key)(void *, const char *, int) = dlsym(RTLD_DEFAULT, "SSL_CTX_use_PrivateKey_file");
	const char *chain = getenv("BENCH_CERT"), *key = getenv("BENCH_KEY");
	void *context = make(method);

	if (context && chain && key && (use_chain(context, chain) != 1 || use_key(context, key, 1) != 1)) {
		fprintf(stderr, "present_cert: %s or %s cannot be used\n", chain, key);
		exit(2);
	}
	return context;
}

int SSL_clear(void *connection)
{
	int (*clear)(void *) = dlsym(RTLD_NEXT, "SSL_clear");
	int (*set_session)(void *, void *) = dlsym(RTLD_DEFAULT, "SSL_set_session");

	if (!getenv("BENCH_RESUME"))
		set_session(connection, NULL);
	return clear(connection);
}
