package agentapi_test

import (
	"context"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyagent/keyagent/agentapi/policy"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// metricLine is a line of the text-based exposition format.
var metricLine = regexp.MustCompile(`^(# (HELP|TYPE) keyagent_[a-z_]+ .+|keyagent_[a-z_]+(\{([a-z]+="([^"\\\n]|\\.)*",?)+\})? -?[0-9.]+)$`)

func TestMetrics(t *testing.T) {
	cfg := config(working, &policy.Policy{})
	cfg.Status = func(context.Context) wire.Status {
		expires := &wire.CertificateStatus{EffectiveExpiry: now.Add(time.Hour)}
		return wire.Status{
			Version: "1.2.3", Started: now, Ready: true,
			RulesOff: []wire.RuleStatus{{Name: "a \"rule\"\nof \\ others", Reason: "no user"}},
			Waiting:  []wire.WaitStatus{{What: "the TPM", Count: 3}},
			Identities: []wire.IdentityStatus{
				{Name: "vm", Certificate: expires, TLS: &wire.TLSStatus{Handshakes: 2}},
				{Name: "shop", Unable: true, Credentials: []wire.CredentialStatus{{Name: "c", Bound: true, Certificate: expires}, {Name: "c", Certificate: expires}}},
			},
			Configuration: wire.ConfigurationStatus{Reloads: 4, Refused: 1},
		}
	}
	a := start(t, cfg)
	got := a.get(t, wire.PathMetrics)
	text := string(got.body)
	if got.status != http.StatusOK || got.header.Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8" {
		t.Fatalf("%d %v %s", got.status, got.header, text)
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		if !metricLine.MatchString(line) {
			t.Errorf("no line of a metric: %q", line)
		}
	}
	for _, want := range []string{
		`keyagent_info{version="1.2.3"} 1`, "keyagent_ready 1", "keyagent_tpm_answers 1", `keyagent_waits{for="the TPM"} 3`,
		`keyagent_rule_off{rule="a \"rule\"\nof \\ others"} 1`,
		`keyagent_identity_ready{identity="vm"} 1`, `keyagent_identity_ready{identity="shop"} 0`,
		`keyagent_certificate_expiry_timestamp_seconds{identity="vm",credential=""} `, `keyagent_tls_handshakes_total{identity="vm"} 2`,
		`keyagent_reloads_total{outcome="done"} 4`, `keyagent_reloads_total{outcome="refused"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if n := strings.Count(text, `credential="c"`); n != 1 {
		t.Errorf("%d certificates of one entry", n)
	}
}

func TestMetricsAreForAdministrators(t *testing.T) {
	a := start(t, config(working, rulesFor(os.Geteuid())))
	if p := a.get(t, wire.PathMetrics+"?x=y").problem(t); p.Code != wire.CodeInvalidParameter {
		t.Errorf("got %+v", p)
	}
	needRoot(t)
	for uid, want := range map[int]int{65534: 403, 0: 200} {
		if status, body := reply(t, process("ask", a.socket, wire.PathMetrics, &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)})); status != want {
			t.Errorf("uid %d: %d %s", uid, status, body)
		}
	}
}
