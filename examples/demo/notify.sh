#!/bin/sh
# notify: prints one line for each `audit.completed`. An agent in plain sh: curl talks, sed reads the JSON.
#
# Contract (runner `process`): the sidecar is at AGENTBUS_URL, the token in AGENTBUS_TOKEN; which topics come is
# said in agentbus.yaml.
#   POST /v1/receive {"max":1,"wait":"20s"}   answers {"deliveries":[...]}, none when nothing came in time
#   POST /v1/deliveries/ID/ack {}             done; a delivery never acked comes again, so a line may appear twice
# A sidecar that is away (000), draining (503) or busy (429) is asked again, with a longer and longer pause.
set -u
: "${AGENTBUS_URL:?}" "${AGENTBUS_TOKEN:?}"

# post PATH BODY: sets $status and $answer. The token goes through stdin, where `ps` does not show it.
post() {
    pause=1
    while :; do
        answer=$(printf 'header = "Authorization: Bearer %s"\n' "$AGENTBUS_TOKEN" |
            curl -sS --noproxy '*' --max-time 40 -K - -H 'Content-Type: application/json' \
                -d "$2" -w '\n%{http_code}' "${AGENTBUS_URL%/}$1")
        status=$(printf '%s\n' "$answer" | sed -n '$p')
        answer=$(printf '%s\n' "$answer" | sed '$d' | tr '\n' ' ')
        case $status in
        401 | 403) echo "notify: refused: $answer" >&2; exit 77 ;;
        000 | 429 | 5??) sleep "$pause"; [ "$pause" -ge 8 ] || pause=$((pause * 2)) ;;
        *) return ;;
        esac
    done
}

# text NAME, number NAME: the value of a field of $answer (a quote inside a JSON string is \", so names are safe)
text() { printf '%s\n' "$answer" | sed -nE 's/.*"'"$1"'" *: *"(([^"\\]|\\.)*)".*/\1/p'; }
number() { printf '%s\n' "$answer" | sed -nE 's/.*"'"$1"'" *: *([0-9]+).*/\1/p'; }

while :; do
    post /v1/receive '{"max":1,"wait":"20s"}'
    [ "$status" = 200 ] || { echo "notify: cannot receive: $answer" >&2; exit 1; }
    delivery=$(text delivery_id)
    [ -n "$delivery" ] || continue
    echo "audit $(text run): $(number files) files, $(number markers) markers, $(number broken_links) broken links," \
        "$(number duplicate_groups) groups of duplicates: $(text report)"
    post "/v1/deliveries/$delivery/ack" '{}'
    [ "$status" -lt 400 ] || echo "notify: ack did not count: $answer" >&2
done
