package writequeue_test

import (
	"testing"
	"time"

	"github.com/keyagent/keyagent/internal/writequeue"
)

// BenchmarkDo is what it costs a caller that its write is made by another goroutine.
func BenchmarkDo(b *testing.B) {
	job := writequeue.Job{Write: func() error { return nil }}
	q := writequeue.New(writequeue.Config{Limit: 1024, Patience: time.Minute})
	b.Run("one caller", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := q.Do(job); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("many callers", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := q.Do(job); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
