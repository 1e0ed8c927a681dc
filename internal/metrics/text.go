package metrics

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/keyagent/keyagent/agentapi"
)

// Text implements [agentapi.Metrics].
func (m *Metrics) Text(now agentapi.Snapshot, names bool) ([]byte, error) {
	families, err := m.gather(now)
	if err != nil {
		return nil, fmt.Errorf("collecting metrics: %w", err)
	}
	var text bytes.Buffer
	encoder := expfmt.NewEncoder(&text, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, family := range families {
		if !names {
			family = withoutNames(family)
		}
		if err := encoder.Encode(family); err != nil {
			return nil, fmt.Errorf("encoding metric %s: %w", family.GetName(), err)
		}
	}
	return text.Bytes(), nil
}

// gather reads all metrics, in the order of their names.
func (m *Metrics) gather(now agentapi.Snapshot) ([]*dto.MetricFamily, error) {
	moment := prometheus.NewPedanticRegistry()
	if err := moment.Register(&snapshot{Snapshot: now, now: m.now}); err != nil {
		return nil, err
	}
	return prometheus.Gatherers{m.registry, moment}.Gather()
}

// isName reports whether the values of a label are names of the configuration.
func isName(label string) bool { return label == "identity" || label == "credential" }

// withoutNames returns a family without the labels that hold names. Of metrics that are the same
// then, counters are added up, and of gauges the lowest is told.
func withoutNames(family *dto.MetricFamily) *dto.MetricFamily {
	merged := map[string]*dto.Metric{}
	for _, metric := range family.GetMetric() {
		labels := slices.DeleteFunc(slices.Clone(metric.GetLabel()), func(l *dto.LabelPair) bool { return isName(l.GetName()) })
		if len(labels) == len(metric.GetLabel()) {
			return family // no metric of it has a name
		}
		key := keyOf(labels)
		if merged[key] == nil {
			merged[key] = &dto.Metric{Label: labels, Counter: metric.GetCounter(), Gauge: metric.GetGauge()}
			continue
		}
		merge(merged[key], metric)
	}
	public := &dto.MetricFamily{Name: family.Name, Help: family.Help, Type: family.Type}
	for _, key := range slices.Sorted(maps.Keys(merged)) {
		public.Metric = append(public.Metric, merged[key])
	}
	return public
}

func keyOf(labels []*dto.LabelPair) string {
	var key strings.Builder
	for _, l := range labels {
		fmt.Fprintf(&key, "%q=%q,", l.GetName(), l.GetValue())
	}
	return key.String()
}

func merge(into, other *dto.Metric) {
	switch {
	case into.Counter != nil:
		sum := into.Counter.GetValue() + other.GetCounter().GetValue()
		into.Counter = &dto.Counter{Value: &sum}
	case into.Gauge != nil:
		lowest := min(into.Gauge.GetValue(), other.GetGauge().GetValue())
		into.Gauge = &dto.Gauge{Value: &lowest}
	}
}
