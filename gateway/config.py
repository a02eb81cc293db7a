"""The configuration of a gateway: built once, by `cli`, and passed on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Each field is a flag (`max_queued` is --max-queued) and an environment variable (TEXTSERVE_MAX_QUEUED)."""

    listen: str = "127.0.0.1:50051"
    """Address to listen on, HOST:PORT or unix:PATH; port 0 takes a free one."""

    model: str = ""
    """Model to serve: a folder, or a name on the hub. The bundled one if not given."""

    workers: int = 1
    """Worker processes to start on this machine."""

    worker: tuple[str, ...] = ()
    """Attach to the worker at HOST:PORT instead of starting any; may be given several times."""

    quantization: str = ""
    """How workers hold the weights: nf4, fp4, int8 or none. Their own default if not given."""

    reflection: bool = False
    """Offer server reflection; not for public addresses."""

    max_queued: int = 1024
    """Requests that may wait for a worker; more are refused with RESOURCE_EXHAUSTED."""

    max_message_bytes: int = 4 * 1024 * 1024
    """Bytes that a request may have."""

    request_timeout: float = 3600.0
    """Seconds that a request may take if its caller sets no shorter deadline."""

    worker_wait: float = 30.0
    """Seconds that requests, begun or not, wait for a worker to come back after the last one was lost."""

    grace: float = 30.0
    """Seconds that running requests have to finish after SIGTERM or Ctrl-C; a second signal ends at once."""

    log_level: str = "info"
    """Least level to log on stderr: debug, info, warning or error."""

    worker_args: tuple[str, ...] = ()
    """Flags for the workers, passed on unchanged: everything behind `--`."""
