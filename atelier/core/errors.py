"""All errors of the server, as one tree.

    AtelierError                 500 server_error
    ├── InvalidRequest           400 invalid_request_error
    │   ├── InvalidParameter     400   invalid_value, names the field
    │   │   └── UnsupportedValue 400 unsupported_value
    │   ├── UnknownParameter     400   unknown_parameter
    │   ├── MalformedBody        400   invalid_body
    │   ├── TooMuchWork          400   too_much_work
    │   ├── AdapterInvalid       400   adapter_invalid, a LoRA's file cannot be used
    │   ├── Forbidden            403   forbidden
    │   │   └── LicenceNotAccepted 403 licence_not_accepted, names the licence and its link
    │   ├── NotFound             404   not_found
    │   ├── ModelNotFound        404   model_not_found
    │   ├── LoraNotFound         404   lora_not_found
    │   ├── MethodNotAllowed     405   method_not_allowed
    │   ├── IdempotencyConflict  409   idempotency_conflict
    │   ├── JobUnfinished        409   job_unfinished
    │   ├── BodyTimeout          408   body_timeout
    │   ├── BodyTooLarge         413   body_too_large
    │   └── UnsupportedMediaType 415   unsupported_media_type
    ├── QueueFull                429 rate_limit_error
    ├── GenerationFailed         500 server_error, the model's own failure
    ├── NotSupported             501 not_supported_error
    ├── PoisonRequest            500 server_error, two replicas died with it
    ├── ReplicaLost              503 server_error
    │   ├── ReplicaDied          503
    │   └── ReplicaLeaving       503, inside the server only
    ├── StoreUnavailable         503 server_error, images behind URLs
    ├── JobsUnavailable          503 server_error, the database of jobs
    ├── HubUnavailable           502 server_error, the model hub
    │   ├── HubOffline           503   hub_offline
    │   └── HubFileCorrupt       502   hub_file_corrupt
    ├── StorageFull              507 server_error, the disk of models
    ├── DeadlineExceeded         504 server_error
    └── ModelUnavailable         503 model_unavailable, raised while starting: a model's files cannot be read

A class's docstring is its default message; `status`, `code` and `type` go into the HTTP answer.
"""

from __future__ import annotations


class AtelierError(RuntimeError):
    """Something went wrong inside the server."""

    status = 500
    code = "internal_error"
    type = "server_error"
    #: Whether the same request may succeed later; if not, the response says `x-should-retry: false`.
    is_retryable = False
    #: Seconds after which the request may be sent again, if it is retryable.
    retry_after_s = 1

    def __init__(self, message: str | None = None, *, param: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)
        self.message = str(self)
        self.param = param


class InvalidRequest(AtelierError):
    """The request cannot be understood."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class InvalidParameter(InvalidRequest):
    """A field has a value that is not allowed."""

    code = "invalid_value"


class UnsupportedValue(InvalidParameter):
    """A field asks for something that this server does not support."""

    code = "unsupported_value"


class UnknownParameter(InvalidRequest):
    """A field is not known."""

    code = "unknown_parameter"


class MalformedBody(InvalidRequest):
    """The body is not valid JSON or not a valid form."""

    code = "invalid_body"


class TooMuchWork(InvalidRequest):
    """The request asks for more work than this server does in one request."""

    code = "too_much_work"


class AdapterInvalid(InvalidRequest):
    """The file of a LoRA cannot be used."""

    code = "adapter_invalid"


class Forbidden(InvalidRequest):
    """This operation is not allowed."""

    status = 403
    code = "forbidden"


class LicenceNotAccepted(Forbidden):
    """The model's licence must be accepted before it is downloaded."""

    code = "licence_not_accepted"


class NotFound(InvalidRequest):
    """There is nothing at this address."""

    status = 404
    code = "not_found"


class ModelNotFound(InvalidRequest):
    """This server does not serve the model."""

    status = 404
    code = "model_not_found"


class LoraNotFound(InvalidRequest):
    """This server does not serve the LoRA."""

    status = 404
    code = "lora_not_found"


class MethodNotAllowed(InvalidRequest):
    """This address does not take the method."""

    status = 405
    code = "method_not_allowed"


class IdempotencyConflict(InvalidRequest):
    """Another request was sent with this Idempotency-Key before."""

    status = 409
    code = "idempotency_conflict"


class JobUnfinished(InvalidRequest):
    """The job has not ended yet."""

    status = 409
    code = "job_unfinished"
    is_retryable = True


class BodyTimeout(InvalidRequest):
    """The body did not arrive in time."""

    status = 408
    code = "body_timeout"


class BodyTooLarge(InvalidRequest):
    """The body is larger than this server reads."""

    status = 413
    code = "body_too_large"


class UnsupportedMediaType(InvalidRequest):
    """The body has a content type or encoding that this address does not read."""

    status = 415
    code = "unsupported_media_type"


class QueueFull(AtelierError):
    """The server has as many requests as it can hold; try again in a moment."""

    status = 429
    code = "queue_full"
    type = "rate_limit_error"
    is_retryable = True

    def __init__(self, message: str | None = None, *, param: str | None = None, retry_after_s: int = 1) -> None:
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s


class GenerationFailed(AtelierError):
    """The model failed on this request."""

    code = "generation_failed"


class NotSupported(AtelierError):
    """This server does not support that yet."""

    status = 501
    code = "not_supported"
    type = "not_supported_error"


class ReplicaLost(AtelierError):
    """A replica was lost while it worked on the request; try again."""

    status = 503
    code = "replica_lost"
    is_retryable = True
    #: With two retries, a client without other replicas waits about as long as a new one needs to start.
    retry_after_s = 5


class ReplicaDied(ReplicaLost):
    """A replica died while it had the request; try again."""


class ReplicaLeaving(ReplicaLost):
    """A replica is about to be stopped; the request goes on in another one."""


class PoisonRequest(AtelierError):
    """Two replicas died while they worked on this request; it is not tried again."""

    code = "poison_request"


class StoreUnavailable(AtelierError):
    """Images behind URLs cannot be stored or read now; try again, or ask for images in base64."""

    status = 503
    code = "store_unavailable"
    is_retryable = True
    #: A store that restarts or fails over needs some seconds.
    retry_after_s = 5


class JobsUnavailable(AtelierError):
    """Jobs cannot be stored or read now; try again."""

    status = 503
    code = "jobs_unavailable"
    is_retryable = True
    #: A database that restarts or fails over needs some seconds.
    retry_after_s = 5


class HubUnavailable(AtelierError):
    """The model hub cannot be reached or does not answer as it should; try again."""

    status = 502
    code = "hub_unavailable"
    is_retryable = True
    retry_after_s = 5


class HubOffline(HubUnavailable):
    """This server does not use the model hub, because HF_HUB_OFFLINE is set."""

    status = 503
    code = "hub_offline"
    is_retryable = False


class HubFileCorrupt(HubUnavailable):
    """A file of the model hub is not the one that its metadata describe."""

    code = "hub_file_corrupt"
    is_retryable = False


class StorageFull(AtelierError):
    """There is too little free space for the model."""

    status = 507
    code = "storage_full"


class DeadlineExceeded(AtelierError):
    """The request did not finish before its deadline."""

    status = 504
    code = "deadline_exceeded"


class ModelUnavailable(AtelierError):
    """The files of a model cannot be read."""

    status = 503
    code = "model_unavailable"
