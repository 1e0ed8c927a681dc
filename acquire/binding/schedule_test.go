package binding_test

import (
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire/binding"
)

var epoch = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func same(d time.Duration) time.Duration { return d }

func TestRenewalTime(t *testing.T) {
	for _, tc := range []struct {
		name   string
		life   time.Duration
		jitter func(time.Duration) time.Duration
		want   time.Duration // after notBefore
	}{
		{"is half of the effective life", 7 * 24 * time.Hour, same, 84 * time.Hour},
		{"is a tenth of that earlier at the least jitter", 10 * time.Hour, func(d time.Duration) time.Duration { return d - d/10 }, 270 * time.Minute},
		{"is a tenth of that later at the greatest jitter", 10 * time.Hour, func(d time.Duration) time.Duration { return d + d/10 }, 330 * time.Minute},
		{"is not after the hard stop", 8 * time.Minute, same, 3 * time.Minute},
	} {
		if got := binding.RenewalTime(epoch, epoch.Add(tc.life), tc.jitter).Sub(epoch); got != tc.want {
			t.Errorf("%s: got %v after notBefore, want %v", tc.name, got, tc.want)
		}
	}
}

func TestJitterStaysWithinATenth(t *testing.T) {
	for _, d := range []time.Duration{0, 1, 9, time.Minute, 84 * time.Hour} {
		least, greatest := d, d
		for range 2000 {
			got := binding.Tenth(d)
			if got < d-d/10 || got > d+d/10 {
				t.Fatalf("%v became %v", d, got)
			}
			least, greatest = min(least, got), max(greatest, got)
		}
		if d >= time.Minute && (least > d-d/20 || greatest < d+d/20) {
			t.Errorf("%v became %v to %v only: that spreads nothing", d, least, greatest)
		}
	}
}

func TestBackoffDoublesUpToAnHour(t *testing.T) {
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
		if got := binding.Backoff(i + 1); got != want*time.Minute {
			t.Errorf("after %d failures: %v, want %v", i+1, got, want*time.Minute)
		}
	}
	if got := binding.Backoff(1 << 40); got != time.Hour {
		t.Errorf("after many failures: %v", got)
	}
}

func TestRemaining(t *testing.T) {
	for _, tc := range []struct {
		name  string
		until time.Duration
		want  time.Duration
	}{
		{"a pause that has just begun is whole", time.Hour, time.Hour},
		{"a pause in its middle has half left", 30 * time.Minute, 30 * time.Minute},
		{"a pause that ends now is over", 0, 0},
		{"a pause that ended is over", -time.Second, 0},
		{"a pause that began before the clock was set back is over", time.Hour + time.Second, 0},
	} {
		if got := binding.Remaining(epoch.Add(tc.until), epoch, time.Hour); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestPausesBetweenReplacements(t *testing.T) {
	type step struct {
		rest time.Duration // after the last pause ended
		took time.Duration
		want time.Duration // of the pause that follows
	}
	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"double up to 30 minutes", []step{{0, 0, 30 * time.Second}, {0, 0, time.Minute}, {0, 0, 2 * time.Minute}, {0, 0, 4 * time.Minute},
			{0, 0, 8 * time.Minute}, {0, 0, 16 * time.Minute}, {0, 0, 30 * time.Minute}, {0, 0, 30 * time.Minute}}},
		{"double while replacements come within one more pause", []step{{0, 0, 30 * time.Second}, {30 * time.Second, 0, time.Minute}, {time.Minute, 0, 2 * time.Minute}}},
		{"fall back when none was needed for one more pause", []step{{0, 0, 30 * time.Second}, {0, 0, time.Minute}, {time.Minute + 1, 0, 30 * time.Second}}},
		{"begin when a replacement ends", []step{{0, 70 * time.Second, 30 * time.Second}, {0, 70 * time.Second, time.Minute}}},
	} {
		var b binding.Breaker
		now := epoch
		for i, s := range tc.steps {
			now = now.Add(s.rest)
			if left := b.Wait(now); left != 0 {
				t.Errorf("%s: step %d has to wait for %v", tc.name, i+1, left)
			}
			b.Spend(now, now.Add(s.took))
			now = now.Add(s.took)
			if got := b.Wait(now); got != s.want {
				t.Errorf("%s: step %d: a pause of %v, want %v", tc.name, i+1, got, s.want)
			}
			now = now.Add(s.want)
		}
	}
}

func TestAClockThatIsSetBackEndsThePause(t *testing.T) {
	var b binding.Breaker
	b.Spend(epoch, epoch)
	if got := b.Wait(epoch.AddDate(-1, 0, 0)); got != 0 {
		t.Errorf("got a pause of %v", got)
	}
}
