"""The gateway of textserve: it takes generation calls over gRPC and runs them on worker processes.

It works in the text domain: it validates, templates, tokenizes, queues, routes, detokenizes, matches stop sequences
and delivers. The workers know tokens only. It never loads torch.

The life of a request, file by file:

1. `interceptors` guard the call; `messages` turns the protobuf request into a `request.Request`.
2. `admission` has it checked by `limits`, tokenized by `tokenizer` and completed by `effective`: a `Generation` with
   one `Sequence` for each candidate.
3. `dispatcher` puts it into the `queueing` queue until `routing` finds a worker with room.
4. `session` submits it over the one stream to that worker, and takes the tokens of each engine step from it.
5. `sequence` detokenizes them and matches stop sequences; `delivery` wakes the caller's writer in `servicer`.
6. At the end `messages` writes finish reason, usage, timing and receipt; errors become rich statuses in `status`.
"""
