package metrics

import (
	dto "github.com/prometheus/client_model/go"

	"github.com/keyagent/keyagent/agentapi"
)

// Gather reads all metrics.
func (m *Metrics) Gather(now agentapi.Snapshot) ([]*dto.MetricFamily, error) { return m.gather(now) }
