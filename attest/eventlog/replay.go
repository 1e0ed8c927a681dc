package eventlog

import (
	"bytes"
	"maps"
	"slices"
)

// replay says what became of each quoted register.
type replay struct {
	matching map[int][]Event // the events of each register whose value they give
	failed   []int           // registers that have another value
}

// replayTo extends registers of the log's bank as the log says, and compares them with quoted.
// A register without events must still have the value that it starts with.
func (l *Log) replayTo(quoted map[int][]byte) replay {
	events := map[int][]Event{}
	for _, e := range l.Events {
		events[e.PCR] = append(events[e.PCR], e)
	}
	out := replay{matching: map[int][]Event{}}
	for _, pcr := range slices.Sorted(maps.Keys(quoted)) {
		of, ok := l.match(pcr, events[pcr], quoted[pcr])
		if !ok {
			out.failed = append(out.failed, pcr)
			continue
		}
		out.matching[pcr] = of
	}
	return out
}

func (l *Log) match(pcr int, events []Event, quoted []byte) ([]Event, bool) {
	value := l.extend(pcr, events)
	if bytes.Equal(value, quoted) {
		return events, true
	}
	if pcr != exitPCR {
		return nil, false
	}
	for _, missing := range exits(len(value)) {
		if all := slices.Concat(events, missing); bytes.Equal(extend(value, missing), quoted) {
			return all, true
		}
	}
	return nil, false
}

// exitPCR is the register of the boot's last events in firmware. A kernel that took its copy of the
// log before them does not have them; that they were measured is proven by the register all the
// same, since they are constants.
const exitPCR = 5

func exits(size int) [][]Event {
	event := func(text string) Event {
		return Event{PCR: exitPCR, Type: action, Digest: sum(size, []byte(text)), Data: []byte(text)}
	}
	invoked := event("Exit Boot Services Invocation")
	succeeded := event("Exit Boot Services Returned with Success")
	failed := event("Exit Boot Services Returned with Failure")
	return [][]Event{{invoked, succeeded}, {invoked, failed}, {invoked, failed, succeeded}}
}

func (l *Log) extend(pcr int, events []Event) []byte {
	const firstDynamic, lastDynamic = 17, 22 // not reset at the start, and so not zero
	value := make([]byte, digestSize(l.bank))
	switch {
	case pcr == 0:
		value[len(value)-1] = l.locality
	case pcr >= firstDynamic && pcr <= lastDynamic:
		value = bytes.Repeat([]byte{0xFF}, len(value))
	}
	return extend(value, events)
}

func extend(value []byte, events []Event) []byte {
	for _, e := range events {
		value = sum(len(value), value, e.Digest)
	}
	return value
}
