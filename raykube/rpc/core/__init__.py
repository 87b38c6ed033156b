"""gRPC over HTTP/2 as a pure machine, for both roles: bytes in, events out; calls in, bytes out (RFC 9113, RFC 7541).

No socket, clock or task here: the shells (`raykube/rpc/server.py`, `channel.py`) carry bytes and time in, and act on
events.

Vocabulary: a *stream* is the integer id of one call on its connection. The *head* is what a call's first header block
says. A *message* is one protobuf message as bytes, without gRPC's five-byte prefix. The peer *ended* when it will send
no more messages. A call is *finished* when its status is known (client) or sent (server).

    connection.py  what both roles share: windows, settings, GOAWAY     limits.py    bounds against hostile peers
      server.py    requests → events, answers → frames                  frames.py    names and encoding of frames
      client.py    calls → frames, answers → events                     headers.py   header blocks, remembered
    reader.py      bytes → frames                                       heads.py     what header blocks mean
    output.py      frames → bytes, as windows allow                     status.py    statuses, time-outs, mappings
    stream.py      one call: its windows, what waits to be sent         messages.py  gRPC's messages out of DATA
    fields.py      HPACK blocks → fields
"""
