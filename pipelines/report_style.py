"""The style of the report's page, light and dark."""

STYLE = """
:root{--paper:#faf9f6;--card:#fff;--ink:#20222a;--faint:#6d7280;--line:#e5e3dc;--hot:#e63946;
--good:#0b8a6b;--cool:#3a6ea5}
@media (prefers-color-scheme:dark){:root{--paper:#14161b;--card:#1d2027;--ink:#e9e7e1;--faint:#9a9fac;
--line:#2e323c;--hot:#ff5d68;--good:#3cc79d;--cool:#7fb0e6}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:48px 24px 72px}
h1{font-size:38px;line-height:1.12;letter-spacing:-.02em;margin:0 0 12px}
h2{font-size:22px;letter-spacing:-.01em;margin:0 0 4px}
section{margin-top:56px}
section>p,.lead{color:var(--faint);margin:0 0 18px;max-width:70ch}
.lead{font-size:18px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(220px,1fr));gap:14px;margin-top:30px}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px 18px}
.cards .card{display:flex;flex-direction:column;gap:2px}
.label,.note,.faint,.head,figcaption{color:var(--faint);font-size:13px}
.value{font-size:21px;font-weight:650;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.arrow{color:var(--faint);font-weight:400}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;background:var(--card);border:1px solid var(--line);
border-radius:12px;overflow:hidden}
td,th{padding:8px 12px;border-top:1px solid var(--line);text-align:left;vertical-align:top}
thead th{border-top:0;color:var(--faint);font-weight:500;font-size:13px}
tbody tr:first-child td{border-top:0}thead+tbody tr:first-child td{border-top:1px solid var(--line)}
code{color:var(--faint);font-size:12px}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.pill{border-radius:99px;padding:1px 10px;font-size:13px;white-space:nowrap}
.good{color:var(--good);border:1px solid var(--good)}.bad{color:var(--hot);border:1px solid var(--hot)}
.bar{position:relative;width:34%;min-width:120px}
.bar i{display:block;height:14px;margin-top:4px;border-radius:3px;background:var(--cool);min-width:2px}
.bar i.hot{background:var(--hot)}
.bar b{position:absolute;top:6px;bottom:6px;width:2px;background:var(--ink);opacity:.55;margin-left:12px}
.gallery{display:flex;flex-wrap:wrap;gap:14px}
.row{display:flex;gap:12px;padding:12px 14px}
figure{margin:0;width:107px}
.stack{position:relative;width:107px;height:107px;border-radius:6px;overflow:hidden;
background:var(--line);margin:3px 0}
.stack img{position:absolute;inset:0;width:100%;height:100%;object-fit:contain}
.stack .over{transition:opacity .15s}
.stack:hover .over{opacity:0}
.marked{outline:3px solid var(--hot)}
figcaption{font-size:12px;line-height:1.35}
svg{width:100%;max-width:820px;background:var(--card);
border:1px solid var(--line);border-radius:12px;padding:10px}
svg text{fill:var(--faint);font-size:12px}
polyline{fill:none;stroke:var(--cool);stroke-width:2}
.grid{stroke:var(--line)}.kept{stroke:var(--ink);stroke-dasharray:3 4;opacity:.6}
.well{fill:var(--good)}.ill{fill:var(--hot)}
footer{margin-top:64px;color:var(--faint);font-size:13px}
summary{cursor:pointer}
"""
