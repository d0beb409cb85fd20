#!/bin/sh
# shout: reads the data of one `notes.created` on stdin and publishes it in capitals as `notes.shouted`.
# Any program can be an agent: no SDK, no broker client. Replace this by yours.
set -eu
text=$(tr -d '"\\\000-\037' | tr '[:lower:]' '[:upper:]')
printf '{"to": "notes.shouted", "data": "%s"}\n' "$text"
