package journal

import (
	"slices"
	"sync"
	"time"
)

// Outcome says in a word what came of a request.
type Outcome string

// The outcomes.
const (
	OK      Outcome = "ok"      // answered as asked
	Refused Outcome = "refused" // answered with an error of the service's own
	Faulted Outcome = "fault"   // not answered by the service: a fault was in the way
)

// Entry is one request and its answer.
type Entry struct {
	Seq       uint64    `json:"seq"` // 1 for the first request since the start
	Time      time.Time `json:"time"`
	Operation string    `json:"operation"` // with its service: "imds.issuecredential"
	Method    string    `json:"method"`
	Path      string    `json:"path"`   // without query
	Client    string    `json:"client"` // address and port: one for each connection
	Status    int       `json:"status"` // HTTP; 0 if the connection was cut
	Outcome   Outcome   `json:"outcome"`
	Error     string    `json:"error,omitempty"` // why it was refused, or which fault was in the way

	// ClientCertThumbprint is the SHA-256 of the client certificate's DER in base64url without
	// padding (RFC 8705, 3.1, "x5t#S256").
	ClientCertThumbprint string `json:"client_cert_thumbprint,omitempty"`
	TLSVersion           string `json:"tls_version,omitempty"`

	// Detail is the service's own, such as every check of an attestation verdict. It is not changed
	// after Add.
	Detail map[string]any `json:"detail,omitempty"`
}

// Set puts a fact into Detail.
func (e *Entry) Set(name string, value any) {
	if e.Detail == nil {
		e.Detail = map[string]any{}
	}
	e.Detail[name] = value
}

// Journal is a bounded list of entries. It is safe for concurrent use.
type Journal struct {
	capacity int
	now      func() time.Time

	mu      sync.Mutex // guards what follows
	entries []Entry
	seq     uint64
}

// DefaultCapacity is enough for every test and an afternoon of playing.
const DefaultCapacity = 4096

// New returns an empty journal that keeps the last capacity entries and reads the time from now.
func New(capacity int, now func() time.Time) *Journal {
	return &Journal{capacity: capacity, now: now}
}

// Add numbers e, stamps it with the time and keeps it.
func (j *Journal) Add(e Entry) {
	now := j.now()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.seq++
	e.Seq, e.Time = j.seq, now
	j.entries = append(j.entries, e)
	if excess := len(j.entries) - j.capacity; excess > 0 {
		j.entries = slices.Delete(j.entries, 0, excess)
	}
}

// Entries returns the kept entries, oldest first.
func (j *Journal) Entries() []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.entries)
}

// Operation returns the kept entries of one operation, oldest first.
func (j *Journal) Operation(operation string) []Entry {
	return slices.DeleteFunc(j.Entries(), func(e Entry) bool { return e.Operation != operation })
}
