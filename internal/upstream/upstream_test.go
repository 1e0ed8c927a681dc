package upstream_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/internal/upstream"
)

func TestReadBody(t *testing.T) {
	if got, err := upstream.ReadBody(strings.NewReader("hello")); err != nil || string(got) != "hello" {
		t.Errorf("short body: got %q, %v", got, err)
	}
	if _, err := upstream.ReadBody(strings.NewReader(strings.Repeat("x", upstream.MaxBodyBytes))); err != nil {
		t.Errorf("body of exactly the limit: %v", err)
	}
	if _, err := upstream.ReadBody(strings.NewReader(strings.Repeat("x", upstream.MaxBodyBytes+1))); !errors.Is(err, upstream.ErrTooLarge) {
		t.Errorf("body over the limit: got %v, want ErrTooLarge", err)
	}
}

func TestText(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"plain text stays", "AADSTS50001: no", "AADSTS50001: no"},
		{"line breaks become spaces", "a\r\nlevel=INFO b", "a  level=INFO b"},
		{"escape sequences lose their escape", "\x1b[31mred", " [31mred"},
		{"invalid UTF-8 is marked", "a\xffb", "a?b"},
	} {
		if got := upstream.Text(tc.in); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
	if got := upstream.Text(strings.Repeat("ä", 1000)); len(got) > 410 || !strings.HasSuffix(got, "ä…") {
		t.Errorf("long text: got %d bytes ending in %q", len(got), got[len(got)-6:])
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name, in string
		want     time.Duration
	}{
		{"seconds", "7", 7 * time.Second},
		{"a date", now.Add(90 * time.Second).Format(http.TimeFormat), 90 * time.Second},
		{"a date that has passed", now.Add(-time.Minute).Format(http.TimeFormat), 0},
		{"a negative number", "-4", 0},
		{"nonsense", "soon", 0},
		{"nothing", "", 0},
		{"a lie", "999999999999", time.Hour},
	} {
		if got := upstream.RetryAfter(tc.in, now); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}
