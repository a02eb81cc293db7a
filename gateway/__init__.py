"""The gateway of textserve: it takes generation calls over gRPC and runs them on worker processes.

It works in the text domain: it validates, templates, tokenizes, queues, routes, detokenizes, matches stop sequences
and delivers. The workers know tokens only. It must not know torch.

The life of a request, folder by folder. Imports go down this list, never up:

1. `api/` is the callers' edge. `interceptors` names the call and has it decoded safely (`wire`); `services` runs it:
   `idempotency` lets calls of one name generate once, and `codec` makes a `Request` of the message.
2. `request/` makes a `Generation` of it, with one `Sequence` for each candidate: `preprocess` has it checked by
   `validation`, tokenized, and completed by `defaults`; of a large request on a thread of `executor`.
3. `dispatch/` carries out what `scheduling/` decides: whether it may wait (`admission_control`), which goes next
   (`scheduler`) and where (`placement`); `in_flight` keeps what runs on a worker.
4. `workers/` is the workers' edge: `connection` to each, `run_stream` for what goes there and comes back, `protocol`
   for the messages; `pool/` has the processes.
5. `scheduling/` is pure and decides.
6. `text/` makes tokens of text and text of tokens: the token of each step goes through `detokenizer` and `stopping`.
7. `domain/` has the words that all of them speak; a `Sequence` keeps its tokens, its text and what is not delivered.

On the way back `stream_writer` wakes the stream in `services`, `codec` writes deltas and, at the end, finish reason,
usage, timing and receipt; errors become statuses in `rich_status`. `server` wires all of it, `process` runs it, `cli`
reads flags and environment to the `config`.
"""
