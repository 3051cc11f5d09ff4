// Pushes as a Go program does, by the push package of client_golang.
//
// Arguments: URL TOKEN INSTANCE STEP..., where a step is push=N, add=N (N more orders, then PUT or POST) or delete.
package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/push"
)

func main() {
	url, token, instance, steps := os.Args[1], os.Args[2], os.Args[3], os.Args[4:]
	orders := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "go_orders_total", Help: "Orders."}, []string{"country"})
	queue := prometheus.NewGauge(prometheus.GaugeOpts{Name: "go_queue_length", Help: "Orders that wait."})
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "go_order_seconds", Help: "How long orders take.", Buckets: []float64{0.1, 1}})
	sizes := prometheus.NewSummary(prometheus.SummaryOpts{Name: "go_order_bytes", Help: "How large orders are.", Objectives: map[float64]float64{0.5: 0.05}})
	pusher := push.New(url, "nightly").
		Grouping("client", "go").Grouping("path", "/var/orders").Grouping("instance", instance).
		Collector(orders).Collector(queue).Collector(seconds).Collector(sizes)
	if token != "" {
		pusher = pusher.Header(http.Header{"Authorization": {"Bearer " + token}})
	}
	for _, step := range steps {
		verb, number, _ := strings.Cut(step, "=")
		count, _ := strconv.Atoi(number)
		for range count {
			orders.WithLabelValues("fr").Inc()
			queue.Set(float64(count))
			seconds.Observe(0.5)
			sizes.Observe(100)
		}
		send := map[string]func() error{"push": pusher.Push, "add": pusher.Add, "delete": pusher.Delete}[verb]
		if err := send(); err != nil {
			fmt.Fprintln(os.Stderr, step, err)
			os.Exit(1)
		}
	}
}
