{{/* What the schema cannot say, or not so that one reads what is wrong. */}}
{{- define "kafka-backup.checks" -}}
{{- if and (not .Values.leaderElection.enabled) (gt (int .Values.replicaCount) 1) -}}
{{- fail "replicaCount is more than 1 and leaderElection.enabled is false: two controllers would do the same work" -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false and serviceAccount.name is empty: name the ServiceAccount that there is" -}}
{{- end -}}
{{- if eq (int .Values.metrics.port) 8081 -}}
{{- fail "metrics.port is 8081, which is the port of health checks" -}}
{{- end -}}
{{- if regexMatch "^/(metrics|runs)/" .Values.metrics.path -}}
{{- fail (printf "metrics.path is %s: pushes are taken below /metrics/ and /runs/" .Values.metrics.path) -}}
{{- end -}}
{{- range .Values.env -}}
{{- if has .name (list "POD_NAME" "POD_UID" "RUST_LOG") -}}
{{- fail (printf "env has %s, which the chart sets (RUST_LOG by logging.level)" .name) -}}
{{- end -}}
{{- end -}}
{{- if hasKey .Values.prometheusRule.additionalRuleLabels "severity" -}}
{{- fail "prometheusRule.additionalRuleLabels has severity, which each alert has of its own" -}}
{{- end -}}
{{- end -}}
