package collect_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/collect"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
)

// paravisor makes reports as those of some age do: with the guest's input of late reads before.
type paravisor struct {
	mu     sync.Mutex
	late   int  // reads until an input shows
	silent bool // the claims do not say the input
	inputs [][]byte
}

// serve has the paravisor make the machine's reports.
func (p *paravisor) serve(t *testing.T, m *vm) {
	t.Helper()
	ak := m.ak(t)
	none := make([]byte, 64)
	m.sim.SetHCLReport(func(input []byte) ([]byte, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.inputs = append(p.inputs, bytes.Clone(input))
		shown := none
		if i := len(p.inputs) - 1 - p.late; i >= 0 {
			shown = p.inputs[i]
		}
		claims := bytes.Replace(at.Claims(ak), []byte(strings.Repeat("00", 64)), []byte(hex.EncodeToString(shown)), 1)
		if p.silent {
			claims = bytes.Replace(claims, []byte(`"user-data"`), []byte(`"other"`), 1)
		}
		report := m.amd.Report(t, at.ReportData(claims), attest.AzureIDKeyDigests()[1], nil)
		return at.Wrap(2, report, claims), nil
	})
}

func TestAFreshReportIsWaitedFor(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for _, tt := range []struct {
		name   string
		late   int
		silent bool
		pauses []time.Duration
		want   string // in the error; "": there is evidence
	}{
		{"made before the read returns", 0, false, nil, ""},
		{"made in the background", 2, false, []time.Duration{250 * ms, 500 * ms}, ""},
		{"never made", 1000, false, []time.Duration{250 * ms, 500 * ms, 1000 * ms, 2000 * ms, 2000 * ms, 2000 * ms, 2000 * ms, 2000 * ms}, "does not carry the guest's input"},
		{"by a paravisor that does not say the input", 0, true, nil, "too old"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newVM(t)
			(&paravisor{late: tt.late, silent: tt.silent}).serve(t, m)
			var pauses []time.Duration
			m.config.Sleep = func(_ context.Context, d time.Duration) error {
				pauses = append(pauses, d)
				return nil
			}
			e, err := collect.New(m.config).CollectFor(t.Context(), collect.Request{Challenge: challenge(), HardwareFresh: true})
			if !slices.Equal(pauses, tt.pauses) {
				t.Errorf("pauses %v, want %v", pauses, tt.pauses)
			}
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("error %v, want %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			policy := attest.DefaultPolicy()
			policy.HardwareFresh = true
			if err := attest.Verify(e, challenge(), m.config.Anchors, policy, at.Epoch()).Err(); err != nil {
				t.Error(err)
			}
			other := challenge()
			other.Audience = "https://other.example"
			if r := attest.Verify(e, other, m.config.Anchors, policy, at.Epoch()); r.Status(attest.CheckHCLUserData) != attest.Fail {
				t.Errorf("for another audience: %v", r.Status(attest.CheckHCLUserData))
			}
		})
	}
}

// A report that was made before, or for another program of the machine, is not fresh.
func TestAReportOfAnotherTimeIsNotFresh(t *testing.T) {
	t.Parallel()
	m := newVM(t)
	e, err := collect.New(m.config).Collect(t.Context(), challenge())
	if err != nil {
		t.Fatal(err)
	}
	policy := attest.DefaultPolicy()
	policy.HardwareFresh = true
	r := attest.Verify(e, challenge(), m.config.Anchors, policy, at.Epoch())
	refused, ok := errors.AsType[*attest.CheckError](r.Err())
	if !ok || refused.Check != attest.CheckHCLUserData {
		t.Errorf("got %v", r.Err())
	}
}

// Another program of the machine writes its own input now and then; both get their report.
func TestAnotherProgramWritesTheInputToo(t *testing.T) {
	t.Parallel()
	m := newVM(t)
	(&paravisor{late: 1}).serve(t, m)
	var waits int
	m.config.Sleep = func(ctx context.Context, _ time.Duration) error {
		if waits++; waits > 1 {
			return nil
		}
		return m.tpm.PutNV(ctx, collect.NVUserData, bytes.Repeat([]byte{7}, 64))
	}
	if _, err := collect.New(m.config).CollectFor(t.Context(), collect.Request{Challenge: challenge(), HardwareFresh: true}); err != nil {
		t.Error(err)
	}
}

func TestTheWaitForAFreshReportEndsWithItsContext(t *testing.T) {
	t.Parallel()
	m := newVM(t)
	(&paravisor{late: 1000}).serve(t, m)
	ctx, cancel := context.WithCancel(t.Context())
	m.config.Sleep = func(ctx context.Context, _ time.Duration) error {
		cancel()
		return ctx.Err()
	}
	if _, err := collect.New(m.config).CollectFor(ctx, collect.Request{Challenge: challenge(), HardwareFresh: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
