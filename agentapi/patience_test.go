package agentapi_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
)

// The context of a request ends as one of context.WithTimeout does, whenever somebody begins to
// wait for it.
func TestPatienceEndsInTime(t *testing.T) {
	tests := []struct {
		name  string
		idle  time.Duration // before somebody waits
		stop  func(cancel, end context.CancelFunc)
		after time.Duration // since the beginning
		want  error
	}{
		{"waited for from the beginning", 0, nil, time.Minute, context.DeadlineExceeded},
		{"waited for later", 50 * time.Second, nil, time.Minute, context.DeadlineExceeded},
		{"waited for too late", 2 * time.Minute, nil, 2 * time.Minute, context.DeadlineExceeded},
		{"the request is cancelled", 0, func(cancel, _ context.CancelFunc) { cancel() }, 0, context.Canceled},
		{"the request is answered", 0, func(_, end context.CancelFunc) { end() }, 0, context.Canceled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				parent, cancel := context.WithCancel(t.Context())
				defer cancel()
				ctx, end := agentapi.WithPatience(parent, time.Minute)
				defer end()
				<-time.After(tt.idle) // of the bubble's clock
				done := ctx.Done()
				if tt.stop != nil {
					tt.stop(cancel, end)
				}
				<-done
				if took := time.Since(begin); took != tt.after || !errors.Is(ctx.Err(), tt.want) {
					t.Errorf("ended after %v with %v, want %v and %v", took, ctx.Err(), tt.after, tt.want)
				}
			})
		})
	}
}

// Without a setting, a program that speaks a protocol of Azure's SDKs is told to come back after 8
// s, since some of them give up after 10; the agent's own API waits for a minute.
func TestHowLongAProgramWaits(t *testing.T) {
	for target, want := range map[string]time.Duration{imdsTarget: 8 * time.Second, nativeTarget: time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			slow := func(ctx context.Context, _ acquire.Request) (acquire.Token, error) {
				<-ctx.Done()
				return acquire.Token{}, ctx.Err()
			}
			server, _, _ := newServer(t, config(slow, rulesFor(os.Geteuid())))
			w := httptest.NewRecorder()
			r := newRequest(target)
			r.Header.Set("Metadata", "true")
			begun := time.Now()
			server.HandlerFor(self()).ServeHTTP(w, r)
			if took := time.Since(begun); took != want {
				t.Errorf("%s: answered after %v, want %v", target, took, want)
			}
			if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
				t.Errorf("%s: status %d, Retry-After %q", target, w.Code, w.Header().Get("Retry-After"))
			}
			<-time.After(time.Minute) // of virtual time, in which the audit's goroutine ends
		})
	}
}
