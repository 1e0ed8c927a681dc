package fault

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Kind is what a fault does.
type Kind string

// The kinds.
const (
	Status Kind = "status" // answers Status, Headers and Body
	Delay  Kind = "delay"  // waits, then lets the service answer; real time, whatever the platform's clock says
	Reset  Kind = "reset"  // cuts the connection with a TCP reset, without an answer
	Body   Kind = "body"   // answers 200 with Headers and Body
)

// Duration is a time.Duration that JSON spells as "1.5s".
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// Fault is one misbehaviour.
type Fault struct {
	Operation string            `json:"operation"`
	Kind      Kind              `json:"kind"`
	Status    int               `json:"status,omitempty"`
	Headers   map[string]string `json:"headers,omitempty"`
	Body      string            `json:"body,omitempty"`
	Delay     Duration          `json:"delay,omitempty"`
	Count     int               `json:"count,omitempty"` // how many requests; 0 means until cleared
}

// MaxDelay is the longest delay: no client of ours waits longer.
const MaxDelay = 10 * time.Minute

func (f Fault) validate(operations []string) error {
	switch {
	case !slices.Contains(operations, f.Operation):
		return fmt.Errorf("fault: operation: unknown operation %q, want one of %s", f.Operation, strings.Join(operations, ", "))
	case f.Count < 0:
		return fmt.Errorf("fault: count %d is less than 0", f.Count)
	case f.Kind == Status && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("fault: status %d, want 200 to 599", f.Status)
	case f.Kind != Status && f.Status != 0:
		return fmt.Errorf("fault: kind %q takes no status", f.Kind)
	case f.Kind == Delay && (f.Delay <= 0 || time.Duration(f.Delay) > MaxDelay):
		return fmt.Errorf("fault: delay %v, want more than 0 and at most %v", time.Duration(f.Delay), MaxDelay)
	case f.Kind != Delay && f.Delay != 0:
		return fmt.Errorf("fault: kind %q takes no delay", f.Kind)
	case !slices.Contains([]Kind{Status, Delay, Reset, Body}, f.Kind):
		return fmt.Errorf("fault: unknown kind %q, want status, delay, reset or body", f.Kind)
	}
	return nil
}

// Set is the list of faults in force. It is safe for concurrent use.
type Set struct {
	operations []string

	mu     sync.Mutex // guards what follows
	faults []Fault
}

// NewSet returns an empty set that knows the names of the platform's operations: a fault for one
// that does not exist would never act, and the test that relies on it would prove nothing.
func NewSet(operations ...string) *Set { return &Set{operations: operations} }

// Add puts f behind the faults already there.
func (s *Set) Add(f Fault) error {
	if err := f.validate(s.operations); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
	return nil
}

// Clear removes every fault. Requests that are being delayed go on waiting.
func (s *Set) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// List returns the faults in force with their remaining counts.
func (s *Set) List() []Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.faults)
}

// Take returns the fault that acts on the next request of an operation, and counts it.
func (s *Set) Take(operation string) (Fault, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := slices.IndexFunc(s.faults, func(f Fault) bool { return f.Operation == operation })
	if at < 0 {
		return Fault{}, false
	}
	f := s.faults[at]
	switch f.Count {
	case 0: // stays until cleared
	case 1:
		s.faults = slices.Delete(s.faults, at, at+1)
	default:
		s.faults[at].Count--
	}
	return f, true
}

// Parse reads one fault from JSON. Unknown members are refused: a misspelt one would be a fault
// that does something else.
func Parse(data []byte) (Fault, error) {
	var f Fault
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return Fault{}, fmt.Errorf("fault: %w", err)
	}
	if dec.More() {
		return Fault{}, fmt.Errorf("fault: more than one JSON value")
	}
	return f, nil
}
