package agentapi

import (
	"encoding/binary"
	"encoding/hex"
	"log/slog"
	"math/rand/v2"
	"net/http"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// maxClientRequestID is how long the id may be that a caller gives its request.
const maxClientRequestID = 64

// requestIDs name one request: in its answer, in the audit and in the log.
type requestIDs struct {
	own    string // made here, for each request another
	client string // what the caller calls it; "": nothing that can be kept
}

func idsOf(r *http.Request) requestIDs {
	return requestIDs{newRequestID(), clientRequestID(r)}
}

// newRequestID returns a random UUID (RFC 9562, 5.4). It is no secret; that it is not counted keeps
// a caller from seeing how much others ask.
func newRequestID() string {
	var id [16]byte
	binary.LittleEndian.PutUint64(id[:8], rand.Uint64()) //nolint:gosec // a name, and not a secret
	binary.LittleEndian.PutUint64(id[8:], rand.Uint64()) //nolint:gosec // a name, and not a secret
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	var text [36]byte
	at := 0
	for _, part := range [][]byte{id[:4], id[4:6], id[6:8], id[8:10], id[10:]} {
		if at > 0 {
			text[at] = '-'
			at++
		}
		at += hex.Encode(text[at:], part)
	}
	return string(text[:])
}

// clientRequestID returns the id that an SDK gives its request, if it is one: no text of a caller's
// free choice gets into records and logs by this way.
func clientRequestID(r *http.Request) string {
	given := r.Header[wire.HeaderClientRequestID]
	if len(given) != 1 || len(given[0]) > maxClientRequestID {
		return ""
	}
	for i := range len(given[0]) {
		if !inRequestID[given[0][i]] {
			return ""
		}
	}
	return given[0]
}

// inRequestID marks the characters of ids that programs use: UUIDs, with braces or without, base64
// for URLs, and what divides their parts.
var inRequestID = func() (marked [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._{}") {
		marked[c] = true
	}
	return marked
}()

// addTo adds the ids to a record of the audit.
func (ids requestIDs) addTo(entry *slog.Record) {
	if ids.client == "" {
		entry.AddAttrs(slog.String("request_id", ids.own))
		return
	}
	entry.AddAttrs(slog.String("request_id", ids.own), slog.String("client_request_id", ids.client))
}
