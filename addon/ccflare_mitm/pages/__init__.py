"""Our own pages under /ccflare/: what each answers, whichever way it is asked, by the proxy's port or by mitmweb's."""
