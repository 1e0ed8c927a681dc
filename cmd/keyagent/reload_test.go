package main

import (
	"testing"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// What a reload has come to is told when it is known of one that began after it was asked for, and
// not before: the one before may have read an older file.
func TestOutcomeOfAReload(t *testing.T) {
	serving := wire.ConfigurationStatus{Since: time.Unix(1, 0), Reloads: 3, Refused: 2}
	standby := wire.ConfigurationStatus{Refused: 2}
	with := func(c wire.ConfigurationStatus, change func(*wire.ConfigurationStatus)) wire.ConfigurationStatus {
		change(&c)
		return c
	}
	reloading := func(c *wire.ConfigurationStatus) { c.Reloading = true }
	failed := &wire.ReloadStatus{Error: "a fault"}
	out := wire.ConfigurationStatus{Since: time.Unix(2, 0), Reloads: 1, Refused: 2} // of an agent that came out of standby
	for name, tt := range map[string]struct {
		was, is     wire.ConfigurationStatus
		over, wrong bool
	}{
		"nothing yet":                             {serving, serving, false, false},
		"under way":                               {serving, with(serving, reloading), false, false},
		"done":                                    {serving, with(serving, func(c *wire.ConfigurationStatus) { c.Reloads++ }), true, false},
		"refused":                                 {serving, with(serving, func(c *wire.ConfigurationStatus) { c.Refused++; c.LastReload = failed }), true, true},
		"one before is done":                      {with(serving, reloading), with(serving, func(c *wire.ConfigurationStatus) { c.Reloads++ }), false, false},
		"one before, and this":                    {with(serving, reloading), with(serving, func(c *wire.ConfigurationStatus) { c.Reloads += 2 }), true, false},
		"refused in standby":                      {standby, with(standby, func(c *wire.ConfigurationStatus) { c.Refused++; c.LastReload = failed }), true, true},
		"a retry before is refused":               {with(standby, reloading), with(standby, func(c *wire.ConfigurationStatus) { c.Refused++; c.LastReload = failed }), false, false},
		"out of standby":                          {standby, out, true, false},
		"out of standby by a retry before":        {with(standby, reloading), out, false, false},
		"out of standby by a retry, then done":    {with(standby, reloading), with(out, func(c *wire.ConfigurationStatus) { c.Reloads++ }), true, false},
		"out of standby by a retry, then refused": {with(standby, reloading), with(out, func(c *wire.ConfigurationStatus) { c.Refused++; c.LastReload = failed }), true, true},
		"a retry before is refused, then out of standby": {with(standby, reloading), with(out, func(c *wire.ConfigurationStatus) { c.Refused++ }), true, false},
	} {
		over, err := outcome(wire.Status{PID: 7, Configuration: tt.was}, wire.Status{PID: 7, Configuration: tt.is})
		if over != tt.over || (err != nil) != tt.wrong {
			t.Errorf("%s: over %t, %v", name, over, err)
		}
	}
	if over, err := outcome(wire.Status{PID: 7}, wire.Status{PID: 8}); !over || err == nil {
		t.Errorf("another process: over %t, %v", over, err)
	}
}
