package acquire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"testing"
	"time"
)

// place is a RegionSource.
type place struct {
	name  string
	err   error
	asked int
}

func (p *place) Region(context.Context) (string, error) {
	p.asked++
	return p.name, p.err
}

// asks returns endpoints, a clock, and what was requested with which answer to regional requests.
func asks(region string, source RegionSource) (*endpoints, *time.Time) {
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	cfg := &Config{Now: func() time.Time { return now }, Regions: source, Logger: slog.New(slog.DiscardHandler)}
	return &endpoints{cfg: cfg, region: region, regions: &regions{cfg: cfg}}, &now
}

func endpointOf(region string) string {
	if region == "" {
		return "global"
	}
	return region
}

func TestARegionalEndpointThatCannotBeReachedGivesWayForAWhile(t *testing.T) {
	dial := fmt.Errorf("not reachable: %w", &net.OpError{Op: "dial", Err: errors.New("refused")})
	dns := fmt.Errorf("not reachable: %w", &net.DNSError{Err: "no such host"})
	for _, tt := range []struct {
		name string
		err  error // of the regional endpoint
		want []string
	}{
		{"it works", nil, []string{"west"}},
		{"nobody listens", dial, []string{"west", "global"}},
		{"its name does not exist", dns, []string{"west", "global"}},
		{"the request may have arrived", &net.OpError{Op: "read", Err: errors.New("reset")}, []string{"west"}},
		{"it refuses", errors.New("invalid_client"), []string{"west"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, now := asks("west", nil)
			var asked []string
			request := func(endpoint string) error {
				asked = append(asked, endpoint)
				if endpoint == "west" {
					return tt.err
				}
				return nil
			}
			_ = e.ask(t.Context(), endpointOf, request) // the error is that of the last request
			if !slices.Equal(asked, tt.want) {
				t.Fatalf("got %v, want %v", asked, tt.want)
			}
			if len(tt.want) == 1 {
				return
			}
			asked = nil
			*now = now.Add(globalFor - time.Second)
			_ = e.ask(t.Context(), endpointOf, request)
			*now = now.Add(time.Second)
			_ = e.ask(t.Context(), endpointOf, request)
			if want := []string{"global", "west", "global"}; !slices.Equal(asked, want) {
				t.Errorf("then got %v, want %v: the region again after five minutes", asked, want)
			}
		})
	}
}

func TestTheRegionIsDetectedOnceADay(t *testing.T) {
	source := &place{name: "west"}
	e, now := asks(RegionAuto, source)
	for range 3 {
		if got := e.now(t.Context()); got != "west" {
			t.Errorf("got %q", got)
		}
	}
	*now = now.Add(regionLife)
	e.now(t.Context())
	if source.asked != 2 {
		t.Errorf("asked %d times in a day and a moment, want 2", source.asked)
	}
	source.err = errors.New("no answer")
	*now = now.Add(regionLife)
	for range 3 {
		if got := e.now(t.Context()); got != "" {
			t.Errorf("got %q, want the global endpoint where the region is not known", got)
		}
	}
	if source.asked != 3 {
		t.Errorf("asked %d times, want 3: a failure rests, too", source.asked)
	}
}
