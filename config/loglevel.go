package config

import "log/slog"

// Levels of the log.
const (
	LogDebug = "debug"
	LogInfo  = "info"
	LogWarn  = "warn"
	LogError = "error"
)

// Level is what the log has at least; info if the configuration does not say.
func (c *Config) Level() slog.Level {
	switch c.LogLevel {
	case LogDebug:
		return slog.LevelDebug
	case LogWarn:
		return slog.LevelWarn
	case LogError:
		return slog.LevelError
	}
	return slog.LevelInfo
}

func (c *Config) checkLogLevel(f *findings) {
	if c.LogLevel != "" {
		f.wantOneOf("log_level", c.LogLevel, []string{LogDebug, LogInfo, LogWarn, LogError})
	}
}
