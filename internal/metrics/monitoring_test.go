package metrics_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"go.yaml.in/yaml/v3"
)

const (
	alertsPage    = "../../docs/monitoring/alerts.yaml"
	dashboardPage = "../../docs/monitoring/dashboard.json"
)

// expression is something that Prometheus is asked, and where it stands.
type expression struct{ at, query string }

// alerts are the rules of docs/monitoring/alerts.yaml.
func alerts(t *testing.T) []expression {
	t.Helper()
	text, err := os.ReadFile(alertsPage)
	if err != nil {
		t.Fatal(err)
	}
	var page struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations map[string]string
				Labels      map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &page); err != nil {
		t.Fatal(err)
	}
	var all []expression
	for _, group := range page.Groups {
		for _, rule := range group.Rules {
			if rule.Annotations["summary"] == "" || rule.Annotations["action"] == "" || !slices.Contains([]string{"critical", "warning", "info"}, rule.Labels["severity"]) {
				t.Errorf("%s says not enough", rule.Alert)
			}
			all = append(all, expression{rule.Alert, rule.Expr})
		}
	}
	return all
}

// panels are what docs/monitoring/dashboard.json asks.
func panels(t *testing.T) []expression {
	t.Helper()
	text, err := os.ReadFile(dashboardPage)
	if err != nil {
		t.Fatal(err)
	}
	var page struct {
		UID    string
		Panels []struct {
			ID      int
			Title   string
			Targets []struct{ Expr, RefID string }
		}
	}
	if err := json.Unmarshal(text, &page); err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	var all []expression
	for _, p := range page.Panels {
		if seen[p.ID] || len(p.Targets) == 0 {
			t.Errorf("panel %q: id %d, targets: %d", p.Title, p.ID, len(p.Targets))
		}
		seen[p.ID] = true
		for _, target := range p.Targets {
			all = append(all, expression{p.Title, target.Expr})
		}
	}
	if page.UID == "" {
		t.Error("the dashboard has no uid: it would be another one after each import")
	}
	return all
}

// What rules and dashboard ask for is what an agent has: names, and labels that are selected and
// grouped by.
func TestRulesAndDashboardAskForMetricsThatThereAre(t *testing.T) {
	families := parse(t, text(t, full(), true))
	all := slices.Concat(alerts(t), panels(t))
	if len(all) < 25 {
		t.Fatalf("only %d expressions were found", len(all))
	}
	for _, e := range all {
		for _, problem := range unknownIn(e.query, families) {
			t.Errorf("%s: %s: %s", e.at, e.query, problem)
		}
	}
}

func TestAnExpressionThatAsksForNothingIsNoticed(t *testing.T) {
	families := parse(t, text(t, full(), true))
	for query, problem := range map[string]string{
		`keyagent_ready{instance="a"} == 0`:                                   "",
		`rate(keyagent_tpm_queue_duration_seconds_bucket[1m])`:                "",
		`sum by (outcome, identity) (rate(keyagent_token_fetches_total[1m]))`: "",
		`keyagent_readiness`:                       "there is no metric keyagent_readiness",
		`keyagent_ready_bucket`:                    "there is no metric keyagent_ready_bucket",
		`keyagent_token_fetches_total{result="x"}`: "no metric here has the label result",
		`sum by (result) (rate(keyagent_token_fetches_total{outcome="obtained"}[1m]))`: "no metric here has the label result",
		`up == 0`: "",
	} {
		got := strings.Join(unknownIn(query, families), "\n")
		if got != problem {
			t.Errorf("%s: got %q, want %q", query, got, problem)
		}
	}
}

var (
	metricName  = regexp.MustCompile(`\b(?:keyagent|process|go)_[a-z_]+`)
	selector    = regexp.MustCompile(`\{([^}]*)\}`)
	labelName   = regexp.MustCompile(`([a-z_]+) *(?:=~|!~|!=|=)`)
	grouping    = regexp.MustCompile(`\b(?:by|without) \(([^)]*)\)`)
	ofHistogram = regexp.MustCompile(`_(?:bucket|sum|count)$`)
)

// unknownIn lists what an expression asks for and no agent has.
func unknownIn(query string, families map[string]*dto.MetricFamily) []string {
	var problems []string
	known := []string{"instance", "job", "le"} // of Prometheus itself
	for _, name := range metricName.FindAllString(query, -1) {
		family := families[name]
		if base := ofHistogram.ReplaceAllString(name, ""); family == nil && base != name && families[base].GetType() == dto.MetricType_HISTOGRAM {
			family = families[base]
		}
		if family == nil {
			problems = append(problems, "there is no metric "+name)
			continue
		}
		for _, l := range family.GetMetric()[0].GetLabel() {
			known = append(known, l.GetName())
		}
	}
	for _, label := range labelsOf(query) {
		if len(problems) == 0 && !slices.Contains(known, label) {
			problems = append(problems, "no metric here has the label "+label)
		}
	}
	return problems
}

func labelsOf(query string) []string {
	var all []string
	for _, match := range selector.FindAllStringSubmatch(query, -1) {
		for _, label := range labelName.FindAllStringSubmatch(match[1], -1) {
			all = append(all, label[1])
		}
	}
	for _, match := range grouping.FindAllStringSubmatch(query, -1) {
		for label := range strings.SplitSeq(match[1], ",") {
			all = append(all, strings.TrimSpace(label))
		}
	}
	return all
}

// TestPromtoolTakesTheRules has Prometheus' own tool check the rules and play their tests.
func TestPromtoolTakesTheRules(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skipf("NOT CHECKED by promtool, which is not installed (Debian: package prometheus): %v", err)
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yaml"}, {"test", "rules", "alerts_test.yaml"}} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = "../../docs/monitoring"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
