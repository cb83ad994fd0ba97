"""The worker process: gunicorn's gevent worker, fitted to sync clients. `app.cli.server` starts it."""
