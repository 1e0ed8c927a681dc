package daemon_test

import "testing"

// reportCosts reports what was counted beside what it may be.
func reportCosts(b *testing.B, ours, limit costs) {
	for _, c := range []struct {
		unit        string
		ours, limit int
	}{
		{"metadata-requests", ours.Metadata, limit.Metadata},
		{"attestations", ours.Attestations, limit.Attestations},
		{"certificates", ours.Certificates, limit.Certificates},
		{"connections", ours.Connections, limit.Connections},
		{"signatures", ours.Signatures, limit.Signatures},
	} {
		b.ReportMetric(float64(c.ours), "ours-"+c.unit)
		b.ReportMetric(float64(c.limit), "reference-"+c.unit)
	}
}

// BenchmarkFirstToken counts what the first token after a start costs, on a machine where the agent
// has never run and on one where it has, beside what it may cost.
func BenchmarkFirstToken(b *testing.B) {
	cold, warm := firstTokens(b)
	b.Run("cold", func(b *testing.B) { reportCosts(b, cold, coldLimit) })
	b.Run("warm", func(b *testing.B) { reportCosts(b, warm, warmLimit) })
}

// BenchmarkManyResources counts what tokens for 100 resources that are asked for at once, and then
// for 100 others one after the other, cost in all.
func BenchmarkManyResources(b *testing.B) {
	atOnce, inTurn := manyTokens(b)
	limit := costs{Metadata: 2 * manyResources, Connections: 1, Signatures: 1}
	b.Run("at-once", func(b *testing.B) { reportCosts(b, atOnce, limit) })
	b.Run("both", func(b *testing.B) { reportCosts(b, atOnce.plus(inTurn, 1), limit) })
}
