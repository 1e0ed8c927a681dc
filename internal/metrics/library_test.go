package metrics_test

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/metrics"
)

// Prometheus' own library, told the same, writes the same text.
func TestTheTextIsThatOfPrometheusLibrary(t *testing.T) {
	answers := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keyagent_answers_total", Help: "Answers to requests, and refusals of connections; the code is that of a problem, or empty.",
	}, []string{"endpoint", "outcome", "code", "identity"})
	took := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "keyagent_answer_duration_seconds", Help: "Time until a request was answered, by where its token came from.",
		Buckets: []float64{.00005, .0001, .00025, .001, .01, .1, .5, 1, 2.5, 5, 10, 30, 60},
	}, []string{"source"})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(answers, took)

	m := metrics.New("1.2.3")
	for _, identity := range []string{"vm", "", `a"quote`, `a\backslash`, "two\nlines", "ß and 語", "\u202e", "z"} {
		for _, source := range []string{"", agentapi.SourceCache} {
			for _, d := range []time.Duration{0, time.Nanosecond, 50 * time.Microsecond, 51 * time.Microsecond, 250 * time.Millisecond, time.Minute, time.Hour} {
				m.Answered(agentapi.Answer{Endpoint: "socket", Decision: "issued", Identity: identity, Source: source, Took: d, Code: wire.CodeNotAllowed})
				answers.WithLabelValues("socket", "issued", string(wire.CodeNotAllowed), identity).Inc()
				took.WithLabelValues(source).Observe(d.Seconds())
			}
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&want, family); err != nil {
			t.Fatal(err)
		}
	}
	ours := text(t, m, true)
	for _, line := range strings.Split(strings.TrimSpace(want.String()), "\n") {
		if strings.Contains(line, "_sum{") {
			continue // a library that adds up fractions of a second rounds otherwise
		}
		if !strings.Contains(ours, line+"\n") {
			t.Errorf("no line %s in\n%s", line, ours)
		}
	}
	if got, want := strings.Count(ours, "keyagent_answer"), strings.Count(want.String(), "keyagent_answer"); got != want {
		t.Errorf("%d lines, the library writes %d", got, want)
	}
}

// What is not UTF-8 does not cost the reader the page.
func TestALabelThatIsNotUTF8(t *testing.T) {
	m := metrics.New("1.2.3")
	m.TokenFetched("a\xff\xfe", 250*time.Millisecond, "")
	m.TokenFetched("a\xff\xfe", 250*time.Millisecond, "")
	got := parse(t, text(t, m, true))
	if family := got["keyagent_token_fetches_total"]; family.GetMetric()[0].GetCounter().GetValue() != 2 {
		t.Errorf("got %v", family)
	}
	if sum := got["keyagent_token_fetch_duration_seconds"].GetMetric()[0].GetHistogram().GetSampleSum(); sum != 0.5 {
		t.Errorf("sum %v", sum)
	}
}

// The numbers about process and runtime are those that Prometheus' own library tells, under the
// same names and of the same kinds.
func TestProcessAndRuntimeAreToldAsByPrometheusLibrary(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	ours := parse(t, text(t, metrics.New("1.2.3"), true))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	exactly := map[string]bool{
		"process_max_fds": true, "process_open_fds": true, "go_info": true, "go_gc_gogc_percent": true, "go_gc_gomemlimit_bytes": true,
		"go_sched_gomaxprocs_threads": true,
	}
	compared := 0
	for _, theirs := range families {
		family := ours[theirs.GetName()]
		if family == nil {
			continue
		}
		compared++
		if family.GetType() != theirs.GetType() {
			t.Errorf("%s is a %v, the library's a %v", theirs.GetName(), family.GetType(), theirs.GetType())
		}
		got, want := number(family.GetMetric()[0]), number(theirs.GetMetric()[0])
		if exactly[theirs.GetName()] && got != want || want > 0 && (got < want/4 || got > want*4) {
			t.Errorf("%s is %v, the library says %v", theirs.GetName(), got, want)
		}
	}
	if compared < 24 {
		t.Errorf("only %d numbers have the library's names", compared)
	}
	if _, err := os.Stat("/proc/self/statm"); err == nil && ours["process_start_time_seconds"] == nil {
		t.Error("the start time is not told")
	}
}

func number(m *dto.Metric) float64 {
	if c := m.GetCounter(); c != nil {
		return c.GetValue()
	}
	return m.GetGauge().GetValue()
}
