package binding

import (
	"math/rand/v2"
	"time"
)

const (
	// hardStop is how long before its effective expiry a certificate is no longer used.
	hardStop = 5 * time.Minute

	// Pauses between attempts at a renewal that failed.
	minBackoff = time.Minute
	maxBackoff = time.Hour

	// Pauses between replacements of rejected certificates.
	minPause = 30 * time.Second
	maxPause = 30 * time.Minute

	// pollInterval is how long a wait goes on before the clock is read again: a timer does not
	// notice that the clock was set or that the VM was suspended.
	pollInterval = time.Minute
)

// renewalTime is when a certificate is renewed: at half of its effective life, moved by jitter so
// that machines that were created together do not renew together.
func renewalTime(notBefore, expiry time.Time, jitter func(time.Duration) time.Duration) time.Time {
	at := notBefore.Add(jitter(expiry.Sub(notBefore) / 2))
	if last := expiry.Add(-hardStop); at.After(last) {
		return last
	}
	return at
}

// tenth returns d, give or take a tenth of it.
func tenth(d time.Duration) time.Duration {
	spread := d / 10
	return d - spread + rand.N(2*spread+1) // #nosec G404 -- it spreads load and hides nothing
}

// backoff is the pause after so many failures in a row, from 1 on: 1, 2, 4 …
// 60 minutes.
func backoff(failures int) time.Duration {
	d := minBackoff
	for ; failures > 1 && d < maxBackoff; failures-- {
		d *= 2
	}
	return min(d, maxBackoff)
}

// remaining returns how much of a pause of length d that ends at until is left. If more than d is
// left, the clock was set back since the pause began: then it is over.
func remaining(until, now time.Time, d time.Duration) time.Duration {
	left := until.Sub(now)
	if left < 0 || left > d {
		return 0
	}
	return left
}

// breaker keeps the pause between replacements of one identity's certificate. It
// is a value of time alone; the zero value lets the first one pass.
//
// A replacement that begins no later than one more pause after the last pause
// ended doubles the pause, up to maxPause; a later one starts again with minPause.
type breaker struct {
	pause time.Duration // after the last replacement; 0 before the first
	until time.Time     // end of the pause
}

// wait is how long the next replacement has to wait.
func (b breaker) wait(now time.Time) time.Duration { return remaining(b.until, now, b.pause) }

// spend returns the breaker after a replacement, successful or not, that began
// and ended at these times.
func (b breaker) spend(began, ended time.Time) breaker {
	next := minPause
	if b.pause > 0 && began.Sub(b.until) <= b.pause {
		next = min(2*b.pause, maxPause)
	}
	return breaker{pause: next, until: ended.Add(next)}
}
