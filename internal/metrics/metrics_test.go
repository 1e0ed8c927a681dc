package metrics_test

import (
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/metrics"
)

var started = time.Date(2026, 12, 1, 1, 2, 3, 0, time.UTC)

// full are metrics on which everything was counted once.
func full() *metrics.Metrics {
	m := metrics.New("1.2.3")
	m.Watch(metrics.Now{
		Tokens: func() acquire.Stats {
			return acquire.Stats{CachedTokens: 7, CacheHits: 100, CacheMisses: 3, Flights: 2}
		},
		Queued: func() int { return 4 },
	})
	m.Answered(agentapi.Answer{Endpoint: "socket", Decision: "issued", Identity: "vm", Strength: "attested", Source: agentapi.SourceCache, Took: 30 * time.Microsecond})
	m.Answered(agentapi.Answer{Endpoint: "socket", Decision: "issued", Identity: "vm", Strength: "attested", Source: agentapi.SourceCache, Took: 30 * time.Microsecond})
	m.Answered(agentapi.Answer{Endpoint: "socket", Decision: "issued", Identity: "shop", Strength: "attested", Source: agentapi.SourceCache})
	m.Answered(agentapi.Answer{Endpoint: "socket", Decision: "refused", Code: wire.CodeNotAllowed, Identity: "vm"})
	m.Answered(agentapi.Answer{Endpoint: "socket", Decision: "refused", Code: wire.CodeNotAllowed, Identity: "shop"})
	m.CallEnded(agentapi.Call{Identity: "vm", End: "complete", Status: "2xx"})
	m.CallEnded(agentapi.Call{Identity: "shop", End: "complete", Status: "2xx"})
	m.CallEnded(agentapi.Call{Identity: "vm", End: "unreachable"})
	m.TokenFetched("vm", time.Second, "")
	m.TokenFetched("vm", time.Second, acquire.KindThrottled)
	m.TPMTurn(time.Millisecond)
	m.TPMCommand("TPM2_Sign", 20*time.Millisecond, "success")
	return m
}

// now is a moment with two identities, one of which is not ready.
func now() agentapi.Snapshot {
	expires := func(after time.Duration) *wire.CertificateStatus {
		return &wire.CertificateStatus{EffectiveExpiry: started.Add(after), RenewAt: started}
	}
	return agentapi.Snapshot{
		Connections: 12, TurnedAway: 1,
		Status: wire.Status{
			Version: "1.2.3", Started: started, Ready: true,
			RulesOff: []wire.RuleStatus{{Name: "a \"rule\"\nof \\ others", Reason: "no user"}},
			Waiting:  []wire.WaitStatus{{What: "the TPM", Count: 3}, {What: "Entra", Count: 2}},
			Audit:    wire.AuditStatus{Written: 5, Lost: 1, LastError: "no space left on device"},
			Identities: []wire.IdentityStatus{
				{Name: "vm", Certificate: expires(2 * time.Hour), TLS: &wire.TLSStatus{Handshakes: 2}},
				{Name: "shop", Unable: true, Certificate: expires(time.Hour), TLS: &wire.TLSStatus{Handshakes: 3}, Credentials: []wire.CredentialStatus{
					{Name: "c", Bound: true, Certificate: expires(time.Hour)}, {Name: "c", Certificate: expires(time.Hour)},
				}},
			},
			Configuration: wire.ConfigurationStatus{Reloads: 4, Refused: 1, Since: started, LastReload: &wire.ReloadStatus{Error: "a fault"}},
		},
	}
}

func text(t *testing.T, m *metrics.Metrics, names bool) string {
	t.Helper()
	got, err := m.Text(now(), names)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func TestTheMetricsOfAnAgent(t *testing.T) {
	got := text(t, full(), true)
	for _, want := range []string{
		`keyagent_build_info{goversion="`, `version="1.2.3"} 1`, "keyagent_ready 1", "keyagent_tpm_up 1", "keyagent_start_time_seconds 1.796086923e+09",
		"keyagent_long_waits 5", "keyagent_rules_off 1", "keyagent_connections 12", "keyagent_connections_turned_away_total 1",
		`keyagent_identity_ready{identity="vm"} 1`, `keyagent_identity_ready{identity="shop"} 0`,
		`keyagent_certificate_expiry_timestamp_seconds{credential="",identity="vm"} 1.796094123e+09`, `keyagent_certificate_renewal_timestamp_seconds{identity="vm"} `,
		`keyagent_tls_handshakes_total{identity="vm"} 2`,
		`keyagent_config_reloads_total{outcome="done"} 4`, `keyagent_config_reloads_total{outcome="refused"} 1`, "keyagent_config_last_reload_successful 0",
		"keyagent_audit_records_written_total 5", "keyagent_audit_records_lost_total 1", "keyagent_audit_up 0",
		`keyagent_tokens_issued_total{identity="vm",source="cache",strength="attested"} 2`,
		`keyagent_answers_total{code="not_allowed",endpoint="socket",identity="vm",outcome="refused"} 1`, `keyagent_answers_total{code="",endpoint="socket",identity="vm",outcome="issued"} 2`,
		`keyagent_resource_calls_total{identity="vm",outcome="complete",status="2xx"} 1`, `keyagent_resource_calls_total{identity="vm",outcome="unreachable",status=""} 1`,
		`keyagent_answer_duration_seconds_count{source="cache"} 3`, `keyagent_answer_duration_seconds_bucket{source="cache",le="5e-05"} 3`,
		"keyagent_token_cache_entries 7", `keyagent_token_cache_lookups_total{result="hit"} 100`, `keyagent_token_cache_lookups_total{result="miss"} 3`,
		"keyagent_token_fetches_in_flight 2", `keyagent_token_fetches_total{identity="vm",outcome="obtained"} 1`,
		`keyagent_token_fetches_total{identity="vm",outcome="throttled"} 1`, "keyagent_token_fetch_duration_seconds_count 2",
		`keyagent_tpm_commands_total{command="TPM2_Sign",outcome="success"} 1`, `keyagent_tpm_command_duration_seconds_bucket{command="TPM2_Sign",le="0.025"} 1`,
		"keyagent_tpm_queue_length 4", "keyagent_tpm_queue_duration_seconds_count 1",
		"go_goroutines ", "go_threads ", "go_memstats_heap_inuse_bytes ", `go_info{version="go1.`,
		"process_resident_memory_bytes ", "process_cpu_seconds_total ", "process_open_fds ", "process_max_fds ", "process_start_time_seconds 1.",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s", want)
		}
	}
	if n := strings.Count(got, `credential="c"`); n != 1 {
		t.Errorf("%d certificates of one entry", n)
	}
	if t.Failed() {
		t.Log(got)
	}
}

func parse(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// Everybody on the machine may read the metrics without names.
func TestWithoutNamesNothingSaysAName(t *testing.T) {
	got := text(t, full(), false)
	for _, name := range []string{"vm", "shop", `"c"`, "others"} {
		if strings.Contains(got, name) {
			t.Errorf("%q is told", name)
		}
	}
	for _, want := range []string{
		`keyagent_tokens_issued_total{source="cache",strength="attested"} 3`, "keyagent_identity_ready 0", "keyagent_tls_handshakes_total 5",
		"keyagent_certificate_expiry_timestamp_seconds 1.796090523e+09", `keyagent_answers_total{code="not_allowed",endpoint="socket",outcome="refused"} 2`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	public, all := parse(t, got), parse(t, text(t, full(), true))
	for name, family := range all {
		if public[name] == nil {
			t.Errorf("%s is left out", name)
		}
		for _, m := range family.GetMetric() {
			if family.GetType() != dto.MetricType_COUNTER && family.GetType() != dto.MetricType_GAUGE && slices.ContainsFunc(m.GetLabel(), isName) {
				t.Errorf("%s is a %v with names: it cannot be merged", name, family.GetType())
			}
		}
	}
}

func isName(l *dto.LabelPair) bool { return l.GetName() == "identity" || l.GetName() == "credential" }

// allowedLabels are those whose values the configuration and the agent bound.
var allowedLabels = []string{
	"identity", "credential", "strength", "source", "endpoint", "outcome", "code", "status", "result", "command", "version", "goversion", "le", "quantile",
}

func TestLabelsAreBounded(t *testing.T) {
	for name, family := range parse(t, text(t, full(), true)) {
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if !slices.Contains(allowedLabels, l.GetName()) {
					t.Errorf("%s has a label %s: what bounds its values?", name, l.GetName())
				}
			}
		}
	}
}

func TestTheMetricsAreAsPrometheusWantsThem(t *testing.T) {
	problems, err := promlint.New(strings.NewReader(text(t, full(), true))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestTheDocsListTheMetrics compares docs/metrics.md with what there is: name, kind and labels.
func TestTheDocsListTheMetrics(t *testing.T) {
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(keyagent_[a-z_]+)` \\| ([a-z]+) \\| ([a-z, ]*) \\|").FindAllStringSubmatch(string(page), -1) {
		documented[row[1]] = row[2] + " " + row[3]
	}
	families := parse(t, text(t, full(), true))
	for name, family := range families {
		if !strings.HasPrefix(name, "keyagent_") {
			continue
		}
		var labels []string
		for _, l := range family.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		slices.Sort(labels)
		want := strings.ToLower(family.GetType().String()) + " " + strings.Join(labels, ", ")
		if documented[name] != want {
			t.Errorf("docs/metrics.md has %q for %s, want %q", documented[name], name, want)
		}
	}
	for name := range documented {
		if families[name] == nil {
			t.Errorf("docs/metrics.md has %s, which does not exist", name)
		}
	}
}

func TestAnAgentWithoutTPMHasNoQueueOfOne(t *testing.T) {
	m := metrics.New("1.2.3")
	if got := text(t, m, true); strings.Contains(got, "keyagent_tpm_queue_length") || strings.Contains(got, "keyagent_token_cache_entries") {
		t.Errorf("got %s", got)
	}
}

func TestCountingAndReadingAtOnce(t *testing.T) {
	m := full()
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 100 {
				m.Answered(agentapi.Answer{Endpoint: "socket", Decision: "issued", Identity: "vm", Strength: "tpm", Source: agentapi.SourceEntra})
				m.TPMCommand("TPM2_Sign", time.Millisecond, "success")
			}
		})
		group.Go(func() {
			for i := range 6 {
				if _, err := m.Text(now(), i%2 == 0); err != nil { // for an administrator, and for everybody
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if got := text(t, m, true); !strings.Contains(got, `keyagent_tokens_issued_total{identity="vm",source="entra",strength="tpm"} 400`) {
		t.Errorf("got %s", got)
	}
}

// Everybody on the machine may read the metrics where a port is configured: a page must not cost
// the agent much.
func TestAPageCostsLittle(t *testing.T) {
	m := metrics.New("1.2.3")
	for i := range 10 {
		for _, source := range []string{"", agentapi.SourceCache, agentapi.SourceEntra} {
			m.Answered(agentapi.Answer{Endpoint: "socket", Decision: "issued", Identity: "app" + strconv.Itoa(i), Strength: "tpm", Source: source})
		}
		m.TPMCommand("TPM2_Command"+strconv.Itoa(i), time.Millisecond, "success")
	}
	const pages = 20
	var page []byte
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range pages {
		page, _ = m.Text(now(), false)
	}
	runtime.ReadMemStats(&after)
	cost := int(after.TotalAlloc-before.TotalAlloc) / pages
	t.Logf("a page of %d bytes takes %d", len(page), cost)
	if most := 20 * len(page); cost > most {
		t.Errorf("a page of %d bytes takes %d bytes of memory, want %d at most", len(page), cost, most)
	}
}

// BenchmarkAnswered is what counting costs each answer.
func BenchmarkAnswered(b *testing.B) {
	m := metrics.New("1.2.3")
	for b.Loop() {
		m.Answered(agentapi.Answer{Endpoint: "socket", Decision: "issued", Identity: "vm", Strength: "attested", Source: agentapi.SourceCache, Took: 30 * time.Microsecond})
	}
}
