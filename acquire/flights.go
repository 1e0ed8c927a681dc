package acquire

import "sync"

// flights lets the work of one caller serve all who ask for the same meanwhile. It is not x/sync/singleflight because a caller that
// goes away leaves nothing behind here, however long the work takes. The zero value is ready.
type flights struct {
	mu    sync.Mutex
	under map[string]*landing // by name
}

// landing is the end of a flight: token and err are set before done is closed.
type landing struct {
	done  chan struct{}
	token Token
	err   error
}

// join returns the flight of that name that is under way, or starts one that does fly, if it may begin.
func (f *flights) join(name string, begin func() error, fly func() (Token, error)) (*landing, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.under[name]; l != nil {
		return l, nil
	}
	if err := begin(); err != nil {
		return nil, err
	}
	if f.under == nil {
		f.under = map[string]*landing{}
	}
	l := &landing{done: make(chan struct{}), err: errPanic}
	f.under[name] = l
	go func() {
		defer f.land(name, l)
		l.token, l.err = fly()
	}()
	return l, nil
}

// land wakes those who wait. Who comes from now on starts another flight.
func (f *flights) land(name string, l *landing) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.under, name)
	close(l.done)
}
